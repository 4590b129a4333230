"""The estimators against exact entropy on simulated policies, and the intervals' coverage on simulated clusters."""

import numpy as np
import pytest
from scipy import stats

from reheatd.entropy.estimators import (
    SequenceTotals,
    TailModel,
    TailMoments,
    clustered_interval,
    diversity,
    estimate_tokens,
)
from reheatd.errors import BadInputError

VOCABULARY = 200
TOP_K = 20


def draw_states(
    tokens: int, seed: int, *, ties: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """Heavy-tailed next-token distributions, as logprobs, with draws: (logprobs_TV, sampled_T, exact_T)."""
    rng = np.random.default_rng(seed)
    scale_T1 = rng.uniform(0.5, 3.0, size=(tokens, 1))
    logits_TV = scale_T1 * rng.standard_normal((tokens, VOCABULARY)) + 3 * scale_T1 * (
        rng.random((tokens, VOCABULARY)) < 0.01
    )
    if ties:  # as coarse as bf16 logits around 16
        logits_TV = np.round(logits_TV * 4) / 4
    logprobs_TV = logits_TV - np.logaddexp.reduce(logits_TV, axis=1, keepdims=True)
    p_TV = np.exp(logprobs_TV)
    exact_T = -(p_TV * logprobs_TV).sum(axis=1)
    x_T = (p_TV.cumsum(axis=1) > rng.random((tokens, 1))).argmax(axis=1)
    return logprobs_TV, logprobs_TV[np.arange(tokens), x_T], exact_T, rng


def top_of(logprobs_TV: np.ndarray, k: int = TOP_K) -> np.ndarray:
    return -np.sort(-logprobs_TV, axis=1)[:, :k]


def assert_unbiased(estimate_T: np.ndarray, exact_T: np.ndarray) -> None:
    error_T = estimate_T - exact_T
    assert abs(error_T.mean()) < 4 * error_T.std() / len(error_T) ** 0.5


@pytest.mark.parametrize("tail", [TailModel(), TailModel(0.0, 0.0, 0.0), TailModel(30.0, 2.0, -1.0)])
def test_control_variate_is_unbiased_whatever_the_tail_model(tail: TailModel) -> None:
    logprobs_TV, sampled_T, exact_T, _ = draw_states(30_000, seed=1)
    estimates = estimate_tokens(sampled_T, top_of(logprobs_TV), tail, VOCABULARY)
    assert_unbiased(estimates.control_variate_T, exact_T)
    assert_unbiased(estimates.monte_carlo_T, exact_T)


def test_control_variate_is_unbiased_when_tokens_tie_at_the_edge() -> None:
    """A tie rule that favours the sampled token would bias the estimate by about the edge's own p log p."""
    logprobs_TV, sampled_T, exact_T, _ = draw_states(40_000, seed=2, ties=True)
    top_TK = top_of(logprobs_TV, TOP_K + 1)
    assert (top_TK[:, -1] == top_TK[:, -2]).mean() > 0.2
    assert_unbiased(estimate_tokens(sampled_T, top_TK[:, :-1], TailModel(), VOCABULARY).control_variate_T, exact_T)


def test_fitting_the_tail_on_earlier_draws_lowers_the_variance() -> None:
    logprobs_TV, sampled_T, exact_T, _ = draw_states(20_000, seed=3)
    earlier = estimate_tokens(sampled_T, top_of(logprobs_TV), TailModel())
    fitted = TailMoments().followed_by(earlier.tail).fit()
    logprobs_TV, sampled_T, exact_T, _ = draw_states(20_000, seed=4)
    variances = [
        np.var(estimate_tokens(sampled_T, top_of(logprobs_TV), tail).control_variate_T - exact_T)
        for tail in (fitted, TailModel(), TailModel(0.0, 0.0, 0.0))
    ]
    assert variances[0] < variances[1] < np.var(-sampled_T - exact_T)
    assert variances[0] < variances[2]


def test_no_tail_draws_leave_the_documented_prior() -> None:
    fitted = TailMoments().fit()
    assert (fitted.w0, fitted.w1, fitted.w2) == pytest.approx((2.0, -1.0, 0.0))


def test_old_tail_draws_fade() -> None:
    one = TailMoments.of(np.ones((10, 3)), np.full(10, 5.0))
    moments = TailMoments()
    for _ in range(2000):
        moments = moments.followed_by(one)
    assert moments.draws == pytest.approx(10 / (1 - TailMoments.DECAY))


@pytest.mark.parametrize("ties", [False, True])
def test_bounds_contain_exact_entropy_at_every_token(ties: bool) -> None:
    logprobs_TV, sampled_T, exact_T, _ = draw_states(5_000, seed=5, ties=ties)
    estimates = estimate_tokens(sampled_T, top_of(logprobs_TV), TailModel(), VOCABULARY)
    assert estimates.upper_T is not None
    assert (estimates.truncated_T <= estimates.lower_T + 1e-9).all()
    assert (estimates.lower_T <= exact_T + 1e-6).all()
    assert (exact_T <= estimates.upper_T + 1e-6).all()


def test_vocabulary_smaller_than_k_is_exact() -> None:
    logprobs_TV = np.log(np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]]))
    top_TK = np.concatenate([logprobs_TV, np.full((2, 2), -np.inf)], axis=1)
    estimates = estimate_tokens(logprobs_TV[:, 2], top_TK, TailModel(), 3)
    exact_T = -(np.exp(logprobs_TV) * logprobs_TV).sum(axis=1)
    for values in (estimates.control_variate_T, estimates.truncated_T, estimates.lower_T, estimates.upper_T):
        assert values == pytest.approx(exact_T)


def test_certain_token_has_no_entropy() -> None:
    top_TK = np.array([[0.0, -40.0, -41.0]])
    estimates = estimate_tokens([0.0], top_TK, TailModel(), VOCABULARY)
    assert estimates.control_variate_T == pytest.approx([0.0], abs=1e-6)
    assert estimates.upper_T == pytest.approx([0.0], abs=1e-6)


def test_interval_is_the_textbook_ratio_estimator() -> None:
    estimate = clustered_interval([[1.0, 2.0, 3.0], [4.0], [2.0, 2.0]], 0.9)
    sums, counts, mean = np.array([6.0, 4.0, 4.0]), np.array([3, 1, 2]), 14 / 6
    half = stats.t.ppf(0.95, 2) * np.sqrt(3 / 2 * ((sums - mean * counts) ** 2).sum()) / 6
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((mean, mean - half, mean + half))
    assert (estimate.tokens, estimate.sequences) == (6, 3)


def test_interval_covers_the_true_mean_when_tokens_are_correlated_and_lengths_differ() -> None:
    rng = np.random.default_rng(7)
    covered = naive_covered = 0
    for _ in range(1500):
        lengths = rng.integers(4, 49, size=32)
        # Sequences have their own level, so tokens within one are correlated; lengths are independent of it.
        values = [2.0 + rng.normal(0, 0.6) + rng.normal(0, 1.0, size=n) for n in lengths]
        estimate = clustered_interval(values, 0.95)
        covered += estimate.low <= 2.0 <= estimate.high
        pooled = np.concatenate(values)
        naive_covered += abs(pooled.mean() - 2.0) < 1.96 * pooled.std() / len(pooled) ** 0.5
    assert 0.925 < covered / 1500 < 0.97
    assert naive_covered / 1500 < 0.7


def test_pooling_windows_by_probe_does_not_pretend_to_more_prompts() -> None:
    rng = np.random.default_rng(8)
    level = rng.normal(2, 1, size=32)
    windows = [SequenceTotals.of([np.full(48, level_i) for level_i in level]) for _ in range(3)]
    one, pooled = windows[0].interval(0.95), (windows[0] + windows[1] + windows[2]).interval(0.95)
    assert (pooled.low, pooled.high) == pytest.approx((one.low, one.high))
    assert pooled.tokens == 3 * one.tokens


@pytest.mark.parametrize("values", [[[1.0]], [[], []]])
def test_interval_refuses_what_it_cannot_judge(values: list[list[float]]) -> None:
    with pytest.raises(BadInputError, match="at least 2 sequences"):
        clustered_interval(values, 0.95)


def test_an_empty_sequence_adds_nothing_but_its_cluster() -> None:
    estimate = clustered_interval([[1.0, 2.0], [], [3.0]], 0.95)
    assert (estimate.mean, estimate.tokens, estimate.sequences) == (2.0, 3, 3)


def test_diversity_is_the_share_of_distinct_answers() -> None:
    assert diversity(["Yes.", " yes. ", "No."]) == pytest.approx(2 / 3)
    assert diversity(["a"] * 4) == 0.25
