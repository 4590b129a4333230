"""Figures of versions, as the tests of the control loop hand them in."""

import numpy as np

from reheatd.entropy.detector import DetectorState, Verdict
from reheatd.entropy.windows import Window
from reheatd.measures import Accuracy, EntropyEstimate, PassRate
from reheatd.names import model_name

BASELINE = 2.0


def entropy(mean: float, half_width: float = 0.05) -> EntropyEstimate:
    return EntropyEstimate(mean=mean, low=mean - half_width, high=mean + half_width, tokens=1000, sequences=32)


def accuracy(solved: int, problems: int = 48) -> Accuracy:
    """One answer per problem, of which the first `solved` are right; with its 95% Wilson interval."""
    z, share = 1.96, solved / problems
    centre = (share + z**2 / (2 * problems)) / (1 + z**2 / problems)
    half = z * np.sqrt(share * (1 - share) / problems + z**2 / (4 * problems**2)) / (1 + z**2 / problems)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Accuracy(
        value=share,
        low=low,
        high=high,
        problems=problems,
        solved=[1] * solved + [0] * (problems - solved),
        problem_set=f"the first {problems}",
        pass_at=[PassRate(k=1, value=share, low=low, high=high)],
    )


def window(version: int, verdict: Verdict, mean: float) -> Window:
    return Window(
        version=version,
        model=model_name(version),
        source="schedule",
        verdict=verdict,
        detector=DetectorState(version=version, verdict=verdict),
        baseline=BASELINE,
        ratio=mean / BASELINE,
        threshold=0.5 * BASELINE,
        estimate=entropy(mean),
        monte_carlo=entropy(mean),
        truncated=entropy(mean),
        lower=mean,
        upper=None,
        distinct=1.0,
        seed=0,
        seconds=1.0,
    )
