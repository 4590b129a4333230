"""Stable phases and stalled runs."""

import pytest

from reheatd.config_tables import EntropySection
from reheatd.entropy.regime import SignalStep, is_stalled, stable_level, thresholds

SETTINGS = EntropySection()


def test_the_paper_s_policy_collapses_below_008_nats() -> None:
    limits = thresholds(SETTINGS, baseline=0.8, stable=0.11, lowest=0.8)
    assert limits.collapsed == pytest.approx(0.08)
    assert limits.warning == pytest.approx(0.096)
    assert limits.too_hot == pytest.approx(2.4)


def test_the_highest_threshold_counts_and_is_named() -> None:
    assert "10% of the baseline" in thresholds(SETTINGS, baseline=2.0).because
    assert "collapse_nats" in thresholds(SETTINGS, baseline=None).because
    assert "stable phase" in thresholds(SETTINGS, baseline=1.0, stable=0.3).because


@pytest.mark.parametrize(
    ("entropies", "level"),
    [
        ([0.11] * 19, None),
        ([0.11] * 20, 0.11),
        ([0.1, 0.12] * 10, 0.11),
        ([0.11] * 19 + [0.5], 0.11),
        ([0.8 - 0.03 * step for step in range(20)], None),
        ([0.1, 0.3] * 10, None),
        ([0.6] * 20, None),
    ],
)
def test_stable_phase(entropies: list[float], level: float | None) -> None:
    assert stable_level(entropies, 0.8) == (None if level is None else pytest.approx(level))


@pytest.mark.parametrize(
    ("step", "stalled"),
    [
        (SignalStep(varied=0.0, all_fail=1.0, all_pass=0.0, groups=16), True),
        (SignalStep(varied=0.01, all_fail=0.9, all_pass=0.09, groups=16), True),
        (SignalStep(varied=0.0, all_fail=0.1, all_pass=0.9, groups=16), False),
        (SignalStep(varied=0.1, all_fail=0.9, all_pass=0.0, groups=16), False),
        (SignalStep(varied=0.1, all_fail=0.9, all_pass=0.0), False),
        (SignalStep(varied=0.01, all_fail=0.99, all_pass=0.0), True),
    ],
)
def test_only_failing_groups_without_variance_are_a_stall(step: SignalStep, stalled: bool) -> None:
    assert is_stalled([step] * SETTINGS.stall_steps, SETTINGS) is stalled
    assert not is_stalled([step] * (SETTINGS.stall_steps - 1), SETTINGS)
