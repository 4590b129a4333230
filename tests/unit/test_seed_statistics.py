import math
import statistics

import numpy as np
import pytest
from scipy.stats import permutation_test

from examples.countdown.seed_statistics import (
    Interval,
    Prediction,
    auc_over_seeds,
    restricted_mean,
    roc_auc,
    sign_flip_interval,
    sign_flip_p,
)

DIFFERENCES = [-12_000, -9_500, 300, -21_000, -15_250, -1_000, -7_000, 650]


def test_a_run_that_never_takes_off_counts_with_the_whole_budget() -> None:
    mean, low, high = restricted_mean([1_000, None, 3_000, 2_000], budget=10_000)
    assert mean == 4_000
    assert 0 <= low < mean < high <= 10_000


def test_without_a_take_off_the_restricted_mean_is_the_budget() -> None:
    assert restricted_mean([None] * 6, budget=30_720) == Interval(30_720, 30_720, 30_720)


@pytest.mark.parametrize("differences", [DIFFERENCES, [0.5, 0.5, -0.5], [3.0, -1.0, 2.0, 2.0, -0.25]])
def test_the_permutation_test_agrees_with_that_of_scipy(differences: list[float]) -> None:
    theirs = permutation_test(
        (np.array(differences), np.zeros(len(differences))),
        lambda one, other, axis: np.mean(one - other, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=1 << len(differences),  # all of them
    )
    assert sign_flip_p(differences) == pytest.approx(theirs.pvalue)


def test_eight_seeds_that_agree_have_the_least_p_value_there_is() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]) == 2 / 256
    assert sign_flip_p([0.0] * 8) == 1


def test_the_interval_holds_exactly_the_shifts_that_the_test_does_not_refuse() -> None:
    mean, low, high = sign_flip_interval(DIFFERENCES)
    assert mean == statistics.fmean(DIFFERENCES)
    for bound, outwards in ((low, -1), (high, 1)):
        inside, outside = bound - outwards, bound + outwards
        assert sign_flip_p([value - inside for value in DIFFERENCES]) > 0.05
        assert sign_flip_p([value - outside for value in DIFFERENCES]) <= 0.05


def test_six_pairs_give_an_interval_and_five_give_none() -> None:
    assert sign_flip_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == Interval(3.5, 1.0, 6.0)
    mean, low, high = sign_flip_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, low, high) == (3.0, -math.inf, math.inf)


def test_too_many_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="17 pairs"):
        sign_flip_p([1.0] * 17)


def test_the_interval_covers_the_shift_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    found = [sign_flip_interval(generator.laplace(1.0, 1.0, 7).tolist()) for _ in range(1_000)]
    assert sum(low <= 1.0 <= high for _, low, high in found) / 1_000 == pytest.approx(1 - 6 / 128, abs=0.025)


def test_the_area_counts_pairs_in_the_right_order_and_ties_half() -> None:
    scores, happened = [3.0, 1.0, 2.0, 2.0, 0.5], [True, False, True, False, False]
    pairs = [(one, other) for one, yes in zip(scores, happened, strict=True) if yes for other in (1.0, 2.0, 0.5)]
    assert roc_auc(scores, happened) == statistics.fmean((one > other) + (one == other) / 2 for one, other in pairs)


def test_there_is_no_area_if_it_always_happens() -> None:
    assert math.isnan(roc_auc([1.0, 2.0], [True, True]))
    cases = [Prediction(seed, True, {"rule": 1.0}) for seed in range(4)]
    assert all(math.isnan(value) for value in auc_over_seeds(cases, "rule"))


def cases(repeats: int = 1) -> list[Prediction]:
    """Eight seeds with four cases each, which `rule` tells apart but for one seed, and `other` by chance."""
    generator = np.random.default_rng(5)
    found: list[Prediction] = []
    for seed in range(8):
        for case in range(4):
            happened = case < 2
            rule = float(happened) if seed else 0.5
            found += [Prediction(seed, happened, {"rule": rule, "other": float(generator.normal())})] * repeats
    return found


def test_a_rule_that_knows_is_told_from_one_that_guesses() -> None:
    rule, other = auc_over_seeds(cases(), "rule"), auc_over_seeds(cases(), "other")
    assert rule.low > 0.8 and rule.mean < 1
    assert other.low < 0.5 < other.high
    difference = auc_over_seeds(cases(), "rule", "other")
    assert difference.mean == pytest.approx(rule.mean - other.mean)
    assert difference.low > 0


def test_more_cases_of_the_same_seeds_make_no_interval_narrower() -> None:
    assert auc_over_seeds(cases(repeats=5), "other") == pytest.approx(auc_over_seeds(cases(), "other"))
