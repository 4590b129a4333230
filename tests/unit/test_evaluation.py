"""pass@k and its interval."""

import random
import statistics
from itertools import combinations

import pytest

from workers.evaluation import pass_rate


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_pass_at_k_is_the_mean_over_all_subsets(k: int) -> None:
    solved, samples = [0, 1, 3, 8], 8
    by_hand = [
        statistics.fmean(any(place < count for place in subset) for subset in combinations(range(samples), k))
        for count in solved
    ]
    assert pass_rate(solved, samples, k).value == pytest.approx(statistics.fmean(by_hand))


@pytest.mark.parametrize(("count", "value"), [(0, 0.0), (4, 1.0)])
def test_an_interval_has_a_width_where_all_problems_are_alike(count: int, value: float) -> None:
    rate = pass_rate([count] * 20, 4, 2)
    assert rate.value == value and 0 <= rate.low <= value <= rate.high <= 1
    assert 0.1 < rate.high - rate.low < 0.25


@pytest.mark.parametrize("k", [1, 4])
def test_an_interval_covers_the_truth_nineteen_times_in_twenty(k: int) -> None:
    generator = random.Random(0)
    problems, samples, trials, covered = 40, 4, 600, 0
    truth = statistics.fmean(1 - (1 - (i + 0.5) / 1000) ** k for i in range(1000))  # problems of uniform difficulty
    for _ in range(trials):
        chances = [generator.random() for _ in range(problems)]
        solved = [sum(generator.random() < chance for _ in range(samples)) for chance in chances]
        rate = pass_rate(solved, samples, k)
        covered += rate.low <= truth <= rate.high
    assert 0.92 <= covered / trials <= 0.985
