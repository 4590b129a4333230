"""Verdicts over simulated windows."""

from typing import Any

import numpy as np
import pytest

from reheatd.config_tables import EntropySection
from reheatd.entropy.detector import CollapseDetector, DetectorState, Origin
from reheatd.measures import EntropyEstimate


def detector(**settings: Any) -> CollapseDetector:
    return CollapseDetector(EntropySection.model_validate({"collapse_ratio": 0.1, "patience": 3} | settings))


DETECTOR = detector()


def window(mean: float, half: float = 0.005) -> EntropyEstimate:
    return EntropyEstimate(mean=mean, low=mean - half, high=mean + half, tokens=1000, sequences=32)


def verdicts(
    means: list[float],
    *,
    half: float = 0.005,
    version: int = 1,
    state: DetectorState | None = None,
    detector: CollapseDetector = DETECTOR,
) -> list[str]:
    found = []
    for mean in means:
        state = detector.step(state, version, window(mean, half), 1.0, origin="rl")
        found.append(state.verdict)
    return found


def run_of(
    means: list[float], *, baseline: float = 0.8, detector: CollapseDetector = DETECTOR, origin: Origin = "rl"
) -> list[DetectorState]:
    """The states after a window of each of as many versions."""
    states: list[DetectorState] = []
    for version, mean in enumerate(means):
        before = states[-1] if states else None
        made = origin if version else "base"
        states.append(detector.step(before, version, window(mean, 0.002), baseline, origin=made))
    return states


def test_steady_policy_is_ok() -> None:
    assert verdicts([1.0, 0.5, 0.3, 0.14]) == ["ok"] * 4


def test_collapse_needs_patience() -> None:
    assert verdicts([1.0, 0.06, 0.06, 0.06]) == ["ok", "warning", "warning", "collapsed"]


def test_one_window_above_starts_the_count_again() -> None:
    assert verdicts([0.06, 0.06, 0.11, 0.06, 0.06, 0.06]) == ["warning"] * 5 + ["collapsed"]


def test_wide_interval_is_no_evidence_of_collapse() -> None:
    assert verdicts([0.06] * 10, half=0.05) == ["warning"] * 10


def test_a_window_just_above_the_threshold_is_a_warning() -> None:
    assert verdicts([0.119, 0.121]) == ["warning", "ok"]


def test_collapsed_stays_until_the_margin_is_passed() -> None:
    assert verdicts([0.06, 0.06, 0.06, 0.105, 0.119, 0.125]) == [
        *["warning", "warning", "collapsed", "collapsed", "collapsed", "ok"],
    ]


def test_after_recovery_patience_is_asked_for_again() -> None:
    assert verdicts([0.06, 0.06, 0.06, 0.15, 0.06, 0.06, 0.06])[3:] == ["ok", "warning", "warning", "collapsed"]


def test_another_version_starts_afresh() -> None:
    state = DetectorState(version=1, verdict="warning", low=2)
    assert verdicts([0.06, 0.06, 0.06], version=2, state=state) == ["warning", "warning", "collapsed"]
    collapsed = DetectorState(version=1, verdict="collapsed", low=3)
    assert verdicts([0.11], version=2, state=collapsed) == ["warning"]


def test_state_alone_carries_the_verdict_over_any_cut() -> None:
    means = [1.0, 0.06, 0.06, 0.06, 0.11, 0.06, 0.15, 0.06, 0.9, 9.0, 9.0, 9.0, 2.9, 2.0]
    whole = verdicts(means)
    assert {"collapsed", "too_hot", "ok", "warning"} == set(whole)
    for cut in range(len(means)):
        state = None
        for mean in means[:cut]:
            state = DETECTOR.step(state, 1, window(mean), 1.0, origin="rl")
        if state is not None:
            state = DetectorState.model_validate_json(state.model_dump_json())
        assert whole[:cut] + verdicts(means[cut:], state=state) == whole


def test_undecided_between_the_first_window_beyond_a_threshold_and_the_verdict() -> None:
    state, undecided = None, []
    for mean in [1.0, 0.11, 0.06, 0.06, 0.06, 0.06, 4.0, 4.0, 4.0, 4.0]:
        state = DETECTOR.step(state, 1, window(mean), 1.0, origin="rl")
        undecided.append(DETECTOR.is_undecided(state))
    assert undecided == [False, False, True, True, False, False, True, True, False, False]


def test_patience_of_one_decides_at_once() -> None:
    assert verdicts([0.05], detector=detector(patience=1)) == ["collapsed"]


def test_the_floor_in_nats_holds_whatever_the_share_says() -> None:
    floor = detector(patience=1, collapse_nats=0.08)
    assert floor.step(None, 1, window(0.07), 0.5, origin="rl").verdict == "collapsed"
    assert floor.step(None, 1, window(0.07), 0.15, origin="rl").verdict == "ok"  # the base itself is that terse
    without = detector(patience=1, collapse_nats=0)
    assert without.step(None, 1, window(0.07), 0.5, origin="rl").verdict == "ok"


def test_entropy_that_runs_away_from_its_start_is_too_hot_until_it_has_come_back() -> None:
    assert verdicts([1.0, 2.5, 3.2, 3.2, 3.2, 2.9, 2.6, 2.4]) == [
        *["ok", "ok", "warning", "warning", "too_hot", "too_hot", "too_hot", "ok"],
    ]


def test_entropy_that_runs_away_after_the_fall_is_too_hot_though_it_is_below_where_the_run_began() -> None:
    levels = [0.8, *np.geomspace(0.8, 0.15, 10).tolist(), *[0.15] * 5, 0.5]
    assert run_of(levels, detector=detector(patience=1))[-1].verdict == "too_hot"


def test_a_low_start_may_rise_to_half_of_the_baseline() -> None:
    state = DETECTOR.step(None, 1, window(0.05), 0.8, origin="imported")
    assert [DETECTOR.step(state, 2, window(mean), 0.8, origin="rl").high for mean in (0.39, 0.41)] == [0, 1]


def paper_run(seed: int) -> list[float]:
    """The shape of the paper's figure: down to 0.11 within 30 steps, 400 stable ones, then below 0.08."""
    rng = np.random.default_rng(seed)
    fall = 0.11 + 0.69 * np.exp(-np.arange(30) / 6)
    levels = np.concatenate([[0.8], fall, np.full(400, 0.11), np.linspace(0.11, 0.05, 60)])
    return (levels * rng.normal(1, 0.04, len(levels))).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_a_run_with_the_paper_s_shape_is_healthy_for_430_steps(seed: int) -> None:
    states = run_of(paper_run(seed), detector=detector(patience=1))
    assert {"collapsed", "too_hot"}.isdisjoint(state.verdict for state in states[:435])
    assert states[-1].verdict == "collapsed"
    assert states[430].run.stable == pytest.approx(0.11, rel=0.05)


def test_a_run_that_works_far_above_the_share_of_the_baseline_collapses_relative_to_its_stable_phase() -> None:
    levels = [1.0, *[0.4] * 30, *[0.25] * 3]
    alone = detector(patience=1, collapse_stable_share=0)
    assert run_of(levels, baseline=1.0, detector=alone)[-1].verdict == "ok"
    assert run_of(levels, baseline=1.0, detector=detector(patience=1))[-1].verdict == "collapsed"


def test_a_plateau_near_the_baseline_is_no_stable_phase() -> None:
    states = run_of([1.0, *[0.7] * 40, 0.3], baseline=1.0)
    assert states[-1].run.stable is None and states[-1].verdict == "ok"


def test_windows_of_one_version_make_no_stable_phase() -> None:
    state = None
    for _ in range(60):
        state = DETECTOR.step(state, 1, window(0.4), 1.0, origin="rl")
    assert state is not None and state.run.stable is None


def test_a_reheat_keeps_the_stable_phase_and_the_base_begins_a_new_run() -> None:
    last = run_of([0.8, *[0.11] * 30])[-1]
    reheated = DETECTOR.step(last, 31, window(0.15), 0.8, origin="reheat")
    assert (reheated.run.stable, reheated.run.lowest) == (pytest.approx(0.11), 0.15)
    assert DETECTOR.step(last, 0, window(0.8), 0.8, origin="base").run.stable is None
    assert DETECTOR.step(last, 3, window(0.4), 0.8, origin="rl").run.stable is None


@pytest.mark.parametrize("seed", range(3))
def test_noise_around_a_healthy_level_raises_no_alarm(seed: int) -> None:
    means = np.random.default_rng(seed).normal(0.15, 0.01, size=2000)
    assert {"collapsed", "too_hot"}.isdisjoint(verdicts([float(mean) for mean in means], half=0.02))
