"""Verdicts over simulated windows."""

import numpy as np
import pytest

from reheatd.config import EntropySection
from reheatd.entropy.detector import CollapseDetector, DetectorState
from reheatd.measures import EntropyEstimate

DETECTOR = CollapseDetector(collapse_ratio=0.5, warning_ratio=0.75, recovery_ratio=0.6, patience=3)


def window(mean: float, half: float = 0.02) -> EntropyEstimate:
    return EntropyEstimate(mean=mean, low=mean - half, high=mean + half, tokens=1000, sequences=32)


def verdicts(
    means: list[float], *, half: float = 0.02, version: int = 1, state: DetectorState | None = None
) -> list[str]:
    found = []
    for mean in means:
        state = DETECTOR.step(state, version, window(mean, half), 1.0)
        found.append(state.verdict)
    return found


def test_steady_policy_is_ok() -> None:
    assert verdicts([1.0, 0.9, 1.1, 0.8]) == ["ok"] * 4


def test_collapse_needs_patience() -> None:
    assert verdicts([1.0, 0.4, 0.4, 0.4]) == ["ok", "warning", "warning", "collapsed"]


def test_one_window_above_starts_the_count_again() -> None:
    assert verdicts([0.4, 0.4, 0.7, 0.4, 0.4, 0.4]) == ["warning"] * 5 + ["collapsed"]


def test_wide_interval_is_no_evidence_of_collapse() -> None:
    assert verdicts([0.4] * 10, half=0.2) == ["warning"] * 10


def test_collapsed_stays_until_the_recovery_ratio() -> None:
    assert verdicts([0.4, 0.4, 0.4, 0.55, 0.59, 0.65, 0.8]) == [
        *["warning", "warning", "collapsed", "collapsed", "collapsed"],
        *["warning", "ok"],
    ]


def test_after_recovery_patience_is_asked_for_again() -> None:
    assert verdicts([0.4, 0.4, 0.4, 0.65, 0.4, 0.4, 0.4])[3:] == ["warning", "warning", "warning", "collapsed"]


def test_another_version_starts_afresh() -> None:
    state = DetectorState(version=1, verdict="warning", streak=2)
    assert verdicts([0.4, 0.4, 0.4], version=2, state=state) == ["warning", "warning", "collapsed"]
    collapsed = DetectorState(version=1, verdict="collapsed", streak=3)
    assert verdicts([0.55], version=2, state=collapsed) == ["warning"]


def test_state_alone_carries_the_verdict_over_any_cut() -> None:
    means = [1.0, 0.4, 0.4, 0.4, 0.55, 0.4, 0.65, 0.4, 0.9]
    whole = verdicts(means)
    for cut in range(len(means)):
        state = None
        for mean in means[:cut]:
            state = DETECTOR.step(state, 1, window(mean), 1.0)
        assert whole[:cut] + verdicts(means[cut:], state=state) == whole


def test_undecided_between_the_first_low_window_and_the_verdict() -> None:
    state, undecided = None, []
    for mean in [1.0, 0.7, 0.4, 0.4, 0.4, 0.4]:
        state = DETECTOR.step(state, 1, window(mean), 1.0)
        undecided.append(DETECTOR.is_undecided(state))
    assert undecided == [False, False, True, True, False, False]


def test_ratios_are_relative_to_the_baseline() -> None:
    state = DETECTOR.step(None, 1, window(1.4), 2.0)
    assert state.verdict == "warning"
    assert state.streak == 0


def test_patience_of_one_decides_at_once() -> None:
    detector = CollapseDetector.from_settings(EntropySection.model_validate({"patience": 1}))
    assert detector.step(None, 0, window(0.1), 1.0).verdict == "collapsed"


@pytest.mark.parametrize("seed", range(3))
def test_noise_around_a_healthy_level_raises_no_alarm(seed: int) -> None:
    means = np.random.default_rng(seed).normal(0.9, 0.05, size=2000)
    assert "collapsed" not in verdicts([float(mean) for mean in means], half=0.1)
