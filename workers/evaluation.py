"""Accuracy (avg@k) and pass@k on held-out problems, from one set of sampled answers."""

import math
import statistics
from collections.abc import Sequence
from statistics import NormalDist

from reheatd.errors import EngineError
from reheatd.measures import Accuracy, PassRate
from reheatd.options import TaskOptions
from reheatd.task_data import Problem, problem_set_digest
from workers.rewards.scoring import Scorer
from workers.sampling.rollout import Batch, Rollout, Sampler

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


def evaluation_batch(problems: Sequence[Problem], task: TaskOptions, max_tokens: int, seed: int) -> Batch:
    """The batch of answers from which accuracy is measured, at the task's own sampling settings.

    Args:
        max_tokens: Longest answer, unless `task.eval_max_tokens` sets it.
    """
    return Batch(
        [problem.messages for problem in problems],
        n=task.eval_samples,
        max_tokens=task.eval_max_tokens or max_tokens,
        temperature=task.eval_temperature,
        seed=seed,
        top_p=task.eval_top_p,
    )


def measure_accuracy(sampler: Sampler, problems: Sequence[Problem], scorer: Scorer, batch: Batch) -> Accuracy:
    """Accuracy of the sampled version on `problems`, from the answers to `batch`, whose prompts are theirs.

    Raises:
        EngineError: A problem got fewer than `batch.n` answers.
    """
    return accuracy_of(sampler.sample(**vars(batch)), problems, scorer, model=sampler.model, samples=batch.n)


def accuracy_of(
    sampled: Sequence[list[Rollout]], problems: Sequence[Problem], scorer: Scorer, *, model: str, samples: int
) -> Accuracy:
    """Accuracy from the answers to a batch.

    Raises:
        EngineError: A problem got fewer than `samples` answers, so its outcome could not be compared with another
            version's.
    """
    short = sum(len(rollouts) < samples for rollouts in sampled)
    if short:
        raise EngineError(f"{model} gave fewer than {samples} answers to {short} of {len(problems)} held-out problems")
    return accuracy_of_texts([[rollout.text for rollout in rollouts] for rollouts in sampled], problems, scorer)


def accuracy_of_texts(texts: Sequence[Sequence[str]], problems: Sequence[Problem], scorer: Scorer) -> Accuracy:
    """Accuracy from equally many answers to each problem."""
    answered = [(text, problem) for problem, answers in zip(problems, texts, strict=True) for text in answers]
    rewards = iter(scorer.score_all(answered))
    solved = [sum(next(rewards) >= SOLVED_REWARD for _ in answers) for answers in texts]
    return accuracy_from(solved, len(texts[0]), problem_set_digest(problems))


def accuracy_from(solved: Sequence[int], samples: int, problem_set: str) -> Accuracy:
    """Accuracy with all its figures.

    Args:
        solved: Solved answers of each problem, out of `samples`.
        problem_set: Digest of the problems.
    """
    rates = [pass_rate(solved, samples, 1 << power) for power in range(samples.bit_length())]
    mean = rates[0]  # avg@k is pass@1
    return Accuracy(
        value=mean.value,
        low=mean.low,
        high=mean.high,
        problems=len(solved),
        samples=samples,
        solved=list(solved),
        problem_set=problem_set,
        pass_at=rates,
    )


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
