"""Statistics of paired turns, in which two sides are measured one after the other, many times, on a noisy machine."""

from collections.abc import Sequence

import numpy as np


def pseudomedian(values_N: Sequence[float]) -> tuple[float, float]:
    """Hodges and Lehmann's estimate of the centre, and half the width of its 95% interval (signed ranks, large N).

    It is the median of all pairs' means: as robust to a few spoilt turns as the median, and nearly as sharp as the mean
    on good ones.
    """
    sample_N = np.asarray(values_N)
    count = len(sample_N)
    first_P, second_P = np.triu_indices(count)
    means_P = np.sort((sample_N[first_P] + sample_N[second_P]) / 2)
    low = int(count * (count + 1) / 4 - 1.96 * (count * (count + 1) * (2 * count + 1) / 24) ** 0.5)
    return float(np.median(means_P)), float(means_P[-1 - low] - means_P[low]) / 2
