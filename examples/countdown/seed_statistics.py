"""Statistics over the seeds of an experiment. Pure.

Seeds are the independent units: each has its own policy, and everything that is measured on one seed belongs together.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student_t

LEVEL = 0.95
MOST_PAIRS = 16
"""Largest number of pairs whose sign flips are all tried."""
RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate with its 95% interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """The mean over seeds, with Student's t."""
        mean = statistics.fmean(values)
        error = statistics.stdev(values) / len(values) ** 0.5
        half = float(student_t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
        return cls(mean, mean - half, mean + half)

    def within(self, low: float, high: float) -> "Interval":
        """The interval, ended at bounds that no estimate can be beyond."""
        return Interval(self.mean, max(low, self.low), min(high, self.high))

    def figures(self, name: str) -> dict[str, float]:
        """The estimate as figures of a report: NAME, NAME_low and NAME_high."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


def restricted_mean(times: Sequence[float | None], budget: float) -> Interval:
    """Mean of the times until an event, each at most `budget`, with Student's t over seeds.

    This is the restricted mean survival time. Every run is watched until the budget's end, so a time is unknown only
    where it is longer than that, and the estimate is a plain mean. No restricted time is above the budget, so the
    interval ends there.

    Args:
        times: One per seed; None where the event did not happen within the budget.
    """
    return Interval.of(restricted(times, budget)).within(0.0, budget)


def restricted(times: Sequence[float | None], budget: float) -> list[float]:
    """The times, with the budget in place of those that are longer."""
    return [budget if time is None else min(time, budget) for time in times]


def sign_flip_p(differences: Sequence[float]) -> float:
    """The exact two-sided p-value of paired differences under a permutation test.

    If the two sides of every pair could be exchanged, each difference would have either sign with the same probability.
    The p-value is the share of all 2^n ways to choose the signs whose sum is at least as far from 0 as the sum that was
    found.

    Raises:
        ValueError: There are no differences, or more than `MOST_PAIRS`.
    """
    flips_FN = _flips(len(differences))
    sums_F = np.abs((2 * flips_FN - 1) @ np.asarray(differences, dtype=np.float64))
    found = abs(float(np.sum(differences)))
    return float(np.mean(sums_F >= found * (1 - 1e-12)))


def sign_flip_interval(differences: Sequence[float]) -> Interval:
    """The mean of paired differences, with all shifts that `sign_flip_p` does not refuse at 5%.

    The means of all subsets of the differences cut the line into pieces, in each of which the true shift lies with the
    same probability if differences are symmetric around it (Hartigan 1969, "Using subsample values as typical values").
    The interval leaves out 2.5% of the pieces at each end. Below six pairs no such interval has 95%; it is then
    unbounded.

    Raises:
        ValueError: There are no differences, or more than `MOST_PAIRS`.
    """
    subsets_FN = _flips(len(differences))[1:]  # all but the empty one
    means_F = np.sort(subsets_FN @ np.asarray(differences, dtype=np.float64) / subsets_FN.sum(1))
    mean = statistics.fmean(differences)
    outside = int((1 - LEVEL) / 2 * 2 ** len(differences))
    if outside == 0:
        return Interval(mean, -np.inf, np.inf)
    return Interval(mean, float(means_F[outside - 1]), float(means_F[-outside]))


def _flips(pairs: int) -> NDArray[np.int64]:
    """All ways to choose among `pairs`, as rows of 0 and 1; the first row is all 0."""
    if not 1 <= pairs <= MOST_PAIRS:
        raise ValueError(f"sign flips of {pairs} pairs; give 1 to {MOST_PAIRS}")
    return np.array(list(itertools.product((0, 1), repeat=pairs)))


@dataclass(frozen=True)
class Prediction:
    """One case in which several scores predicted whether something happens."""

    seed: int
    happened: bool
    scores: Mapping[str, float]
    """By name; a high score says that it happens."""


def roc_auc(scores: Sequence[float], happened: Sequence[bool]) -> float:
    """Area under the ROC curve: the probability that a case in which it happened scores above one in which it did not.

    Ties count as half. It is not a number where one of the two kinds is missing.
    """
    positives = sum(happened)
    negatives = len(happened) - positives
    if not positives or not negatives:
        return float("nan")
    ranks_N = rankdata(scores)
    above = float(ranks_N[np.asarray(happened, dtype=bool)].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def auc_over_seeds(cases: Sequence[Prediction], score: str, rival: str | None = None) -> Interval:
    """The area under a score's ROC curve, or by how much it is above a rival's, with a bootstrap over seeds.

    Cases of one seed are not independent, so whole seeds are drawn with replacement, with all their cases. The interval
    holds the middle 95% of `RESAMPLES` draws, always with the same random numbers. Draws in which only one of the two
    kinds of cases is left have no curve and are left out.
    """
    by_seed: dict[int, list[Prediction]] = {}
    for case in cases:
        by_seed.setdefault(case.seed, []).append(case)
    seeds = sorted(by_seed)
    generator = np.random.default_rng(0)
    areas: list[float] = []
    for chosen in generator.integers(len(seeds), size=(RESAMPLES, len(seeds))).tolist():
        areas.append(_area([case for index in chosen for case in by_seed[seeds[index]]], score, rival))
    known = [area for area in areas if area == area]
    if not known:
        return Interval(*[float("nan")] * 3)
    low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    return Interval(_area(cases, score, rival), low, high)


def _area(cases: Sequence[Prediction], score: str, rival: str | None) -> float:
    happened = [case.happened for case in cases]
    area = roc_auc([case.scores[score] for case in cases], happened)
    return area if rival is None else area - roc_auc([case.scores[rival] for case in cases], happened)
