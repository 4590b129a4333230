"""Accuracy on held-out problems, decoding greedily through the served engine."""

from collections.abc import Sequence
from statistics import NormalDist

from reheatd.errors import EngineError
from reheatd.jobs.contracts import Accuracy
from workers.rewards.verifier import Verifier
from workers.sampling import Sampler
from workers.task_data import Problem

SOLVED_REWARD = 0.5
"""A problem counts as solved when its reward is at least this."""


def wilson_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Wilson score interval of a proportion."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def measure_accuracy(
    sampler: Sampler, problems: Sequence[Problem], verifier: Verifier, *, max_tokens: int, confidence: float = 0.95
) -> Accuracy:
    """Share of `problems` that the version now sampled from solves.

    Raises:
        EngineError: A problem got no answer: a share over fewer problems would not be comparable.
    """
    sampled = sampler.sample([p.messages for p in problems], n=1, max_tokens=max_tokens, temperature=0.0, seed=0)
    missing = sum(not rollouts for rollouts in sampled)
    if missing:
        raise EngineError(f"{sampler.model} gave no answer to {missing} of {len(problems)} held-out problems")
    solved = sum(
        verifier.score(rollouts[0].text, problem.answer) >= SOLVED_REWARD
        for problem, rollouts in zip(problems, sampled, strict=True)
    )
    low, high = wilson_interval(solved, len(problems), confidence)
    return Accuracy(value=solved / len(problems), low=low, high=high, problems=len(problems))
