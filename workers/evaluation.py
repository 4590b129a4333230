"""Accuracy (greedy) and pass@k (temperature 1) on held-out problems, through the served engine."""

import math
import statistics
from collections.abc import Sequence
from statistics import NormalDist

from reheatd.errors import EngineError
from reheatd.measures import Accuracy, PassAtK, PassRate
from workers.rewards.scoring import Scorer
from workers.sampling.rollout import Batch, Rollout, Sampler
from workers.task_data import Problem

SOLVED_REWARD = 0.5
"""A problem counts as solved if its reward is at least this."""


def wilson_interval(successes: float, trials: float, confidence: float) -> tuple[float, float]:
    """The Wilson score interval of a proportion."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    scale = 1 + z * z / trials
    # For a proportion of 0 or 1, the interval ends exactly there; rounding may put it beyond.
    return max(0.0, min(share, (centre - half) / scale)), min(1.0, max(share, (centre + half) / scale))


def measure_accuracy(
    sampler: Sampler, problems: Sequence[Problem], scorer: Scorer, *, max_tokens: int, confidence: float = 0.95
) -> Accuracy:
    """The share of `problems` that the sampled version solves.

    Raises:
        EngineError: A problem got no answer. A share of fewer problems could not be compared with others.
    """
    sampled = sampler.sample(**vars(greedy_batch(problems, max_tokens)))
    return accuracy_of(sampled, problems, scorer, model=sampler.model, confidence=confidence)


def greedy_batch(problems: Sequence[Problem], max_tokens: int) -> Batch:
    """The batch of samples from which accuracy is measured."""
    return Batch([problem.messages for problem in problems], n=1, max_tokens=max_tokens, temperature=0.0, seed=0)


def accuracy_of(
    sampled: Sequence[list[Rollout]],
    problems: Sequence[Problem],
    scorer: Scorer,
    *,
    model: str,
    confidence: float = 0.95,
) -> Accuracy:
    """Accuracy from the answers to a `greedy_batch`.

    Raises:
        EngineError: A problem got no answer.
    """
    missing = sum(not rollouts for rollouts in sampled)
    if missing:
        raise EngineError(f"{model} gave no answer to {missing} of {len(problems)} held-out problems")
    solved = sum(_solved(problems, sampled, scorer))
    low, high = wilson_interval(solved, len(problems), confidence)
    return Accuracy(value=solved / len(problems), low=low, high=high, problems=len(problems))


def measure_pass_at_k(
    sampler: Sampler, problems: Sequence[Problem], scorer: Scorer, *, samples: int, max_tokens: int, seed: int
) -> PassAtK:
    """pass@k of the sampled version at temperature 1, for k = 1, 2, 4, ... up to `samples`.

    Raises:
        EngineError: A problem got fewer than `samples` answers.
    """
    sampled = sampler.sample(**vars(sampled_batch(problems, samples, max_tokens, seed)))
    return pass_at_k_of(sampled, problems, scorer, model=sampler.model, samples=samples)


def sampled_batch(problems: Sequence[Problem], samples: int, max_tokens: int, seed: int) -> Batch:
    """The batch of samples from which pass@k is measured."""
    prompts = [problem.messages for problem in problems]
    return Batch(prompts, n=samples, max_tokens=max_tokens, temperature=1.0, seed=seed)


def pass_at_k_of(
    sampled: Sequence[list[Rollout]], problems: Sequence[Problem], scorer: Scorer, *, model: str, samples: int
) -> PassAtK:
    """pass@k from the answers to a `sampled_batch`.

    Raises:
        EngineError: A problem got fewer than `samples` answers.
    """
    short = sum(len(rollouts) < samples for rollouts in sampled)
    if short:
        raise EngineError(f"{model} gave fewer than {samples} answers to {short} of {len(problems)} problems")
    solved = _solved(problems, sampled, scorer)
    ks = [1 << power for power in range(samples.bit_length())]
    return PassAtK(rates=[pass_rate(solved, samples, k) for k in ks], problems=len(problems), samples=samples)


def _solved(problems: Sequence[Problem], sampled: Sequence[list[Rollout]], scorer: Scorer) -> list[int]:
    """Counts the solved completions of each problem."""
    pairs = [(r.text, problem.answer) for problem, rollouts in zip(problems, sampled, strict=True) for r in rollouts]
    rewards = iter(scorer.score_all(pairs))
    return [sum(next(rewards) >= SOLVED_REWARD for _ in rollouts) for rollouts in sampled]


def pass_rate(solved: Sequence[int], samples: int, k: int) -> PassRate:
    """The unbiased estimate of pass@k (arXiv 2107.03374), with a 95% interval.

    The estimate is the mean over problems of 1 - C(n - c, k) / C(n, k). A normal or bootstrap interval has no width if
    every problem has the same value, for example if none is solved. So the interval is Wilson's, at the number of
    independent trials that explains the variance between problems. That is one per problem if the completions of a
    problem are all solved or all not, and up to `samples` per problem.

    Args:
        solved: Solved completions c of each problem, out of n = `samples`.
    """
    values = [1 - math.comb(samples - count, k) / math.comb(samples, k) for count in solved]
    mean = statistics.fmean(values)
    variance = statistics.variance(values, mean) if len(values) > 1 else 0.0
    per_problem = min(samples, max(1.0, mean * (1 - mean) / variance)) if variance else 1.0
    trials = len(values) * per_problem
    low, high = wilson_interval(mean * trials, trials, 0.95)
    return PassRate(k=k, value=mean, low=low, high=high)
