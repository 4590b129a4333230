"""Verdicts on runs of known shape: those of the paper, and some that must not be mistaken for them."""

import math
import re
from collections.abc import Sequence

import pytest

from reheatd.config_tables import EntropySection
from reheatd.errors import BadInputError
from reheatd.runlog.diagnosis import Diagnosis, diagnose
from reheatd.runlog.metric_names import Signal
from reheatd.runlog.signals import Series, Signals
from tests.unit import runlog_support as support
from tests.unit.runlog_support import Row

SETTINGS = EntropySection()


def signals(rows: Sequence[Row], *, without: Sequence[Signal] = (), every: int = 1) -> Signals:
    """The signals of a run, of which some were not logged, or not at every step."""
    of: dict[Signal, str] = {
        "entropy": "entropy",
        "reward": "reward",
        "grad_norm": "grad_norm",
        "all_fail": "failed",
        "all_pass": "passed",
        "completion_length": "length",
    }
    series: dict[Signal, Series] = {
        signal: {step: row[name] for step, row in enumerate(rows) if step % every == 0}
        for signal, name in of.items()
        if signal not in without
    }
    return Signals("TRL", series, {signal: name for signal, name in of.items() if signal in series})


def judge(rows: Sequence[Row], baseline_nats: float | None = None) -> Diagnosis:
    return diagnose(signals(rows), SETTINGS, baseline_nats)


@pytest.mark.parametrize("seed", range(20))
def test_the_papers_healthy_run_is_healthy_though_it_falls_to_an_eighth(seed: int) -> None:
    found = judge(support.run(support.falls, steps=430, seed=seed))
    assert (found.verdict, found.since_step) == ("healthy", None)
    assert found.baseline_nats == pytest.approx(0.72, rel=0.15)
    assert found.entropy_nats == pytest.approx(0.11, rel=0.1)


def test_the_papers_run_is_collapsed_about_where_it_passes_below_the_floor() -> None:
    found = judge(support.collapsed())
    assert found.verdict == "collapsed"
    assert found.since_step is not None and 405 <= found.since_step <= 430
    assert str(found.since_step) in found.advice
    assert found.stable_nats == pytest.approx(0.11, rel=0.1)


def test_the_run_on_few_prompts_is_collapsed_with_spikes_and_falling_reward() -> None:
    found = judge(support.few_prompts())
    assert found.verdict == "collapsed"
    assert found.since_step is not None and 70 <= found.since_step <= 110
    assert found.stable_nats is None  # it was stable only below the threshold
    assert "to about 0.12 nats" in found.advice
    (spikes,) = (note for note in found.notes if "gradient norm" in note)
    assert "first at step 180" in spikes
    (fall,) = (note for note in found.notes if "reward has fallen" in note)
    assert re.search(r"from 0.50\d? about step 2[5-9]\d to 0.3", fall)


def test_a_base_policy_that_runs_away_is_too_hot() -> None:
    found = judge(support.run(lambda step: min(7.0, 0.8 * math.exp(step / 8)), steps=25))
    assert found.verdict == "too_hot"
    assert found.since_step is not None and 6 <= found.since_step <= 12


def test_a_run_that_runs_away_from_its_stable_phase_is_too_hot_below_three_times_its_start() -> None:
    found = judge(support.run(lambda step: support.falls(step) * math.exp(max(0, step - 300) / 20), steps=350))
    assert found.entropy_nats < 2
    assert found.verdict == "too_hot"
    assert found.since_step is not None and 315 <= found.since_step <= 330


@pytest.mark.parametrize(("every", "latest"), [(1, 430), (10, 470)])
def test_a_collapse_is_found_in_logs_of_every_step_and_of_every_tenth(every: int, latest: int) -> None:
    rows = support.run(lambda step: support.falls(step) - max(0, step - 370) * 0.0007, steps=520)
    found = diagnose(signals(rows, every=every), SETTINGS, 0.8)
    assert found.verdict == "collapsed"
    assert found.since_step is not None and 405 <= found.since_step <= latest


def test_single_dips_do_not_count() -> None:
    rows = support.healthy()
    for step in (100, 101, 200, 300, 429):
        rows[step]["entropy"] = 0.01
    found = judge(rows)
    assert found.verdict == "healthy"
    assert not any("collapsed" in note for note in found.notes)


def test_a_collapse_that_the_run_left_is_a_note() -> None:
    found = judge(support.run(lambda step: 0.05 if 200 <= step < 260 else support.falls(step), steps=430))
    assert found.verdict == "healthy"
    assert any(note.startswith("collapsed from step 20") for note in found.notes)


def test_entropy_a_little_above_the_threshold_is_healthy_with_a_note() -> None:
    found = judge(support.run(lambda step: 0.088 + 0.7 * math.exp(-step / 8), steps=90))
    assert found.verdict == "healthy"
    assert any("near the collapse threshold" in note for note in found.notes)


def test_a_stalled_run_is_told_by_its_groups_though_its_entropy_is_healthy() -> None:
    found = judge(support.stalled())
    assert (found.verdict, found.since_step) == ("stalled", pytest.approx(200, abs=3))
    assert "fail" in found.reason


def test_a_run_that_solves_everything_is_not_stalled() -> None:
    rows = support.run(support.falls, steps=100, failed=lambda _: 0.0, passed=lambda _: 1.0)
    found = judge(rows)
    assert found.verdict == "healthy"
    assert any("harder ones" in note for note in found.notes)


def test_without_shares_of_groups_a_run_is_stalled_if_its_reward_stays_flat() -> None:
    flat = support.run(support.falls, steps=430, reward=lambda step: min(0.5, 0.1 + step * 0.004))
    found = diagnose(signals(flat, without=["all_fail", "all_pass"]), SETTINGS)
    assert found.verdict == "stalled"
    assert "Reward has not risen" in found.reason


@pytest.mark.parametrize("seed", range(10))
def test_without_shares_of_groups_a_reward_that_creeps_upwards_is_no_stall(seed: int) -> None:
    rows = support.run(support.falls, steps=430, seed=seed)
    assert diagnose(signals(rows, without=["all_fail", "all_pass"]), SETTINGS).verdict == "healthy"


def test_a_flat_reward_is_no_stall_while_groups_vary() -> None:
    assert judge(support.run(support.falls, steps=430, reward=lambda _: 0.5)).verdict == "healthy"


def test_a_given_baseline_takes_the_place_of_the_first_entropies() -> None:
    resumed = support.run(lambda _: 0.06, steps=60)
    assert judge(resumed).verdict == "healthy"
    assert any("--baseline-nats" in note for note in judge(resumed).notes)
    found = judge(resumed, baseline_nats=0.8)
    assert (found.verdict, found.since_step, found.baseline_given) == ("collapsed", 0, True)
    assert not any("--baseline-nats" in note for note in found.notes)


def test_a_log_that_begins_late_says_so() -> None:
    late = dict.fromkeys(range(300, 400), 0.11)
    found = diagnose(Signals(None, {"entropy": late}, {"entropy": "h"}), SETTINGS)
    assert any("begins at step 300" in note for note in found.notes)


@pytest.mark.parametrize(
    ("values", "says"), [([0.8, 0.7], "2 values; a diagnosis needs 5"), ([-0.8] * 9, "--metric entropy=NAME")]
)
def test_what_is_no_series_of_entropies_is_refused(values: list[float], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        diagnose(Signals(None, {"entropy": dict(enumerate(values))}, {"entropy": "h"}), SETTINGS)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({0: 0.61, 100: 0.4, 299: 0.23}, "p@8 has fallen from 0.61 at step 0 to 0.23 at step 299"),
        ({0: 0.61, 299: 0.7}, "nothing was lost"),
        ({50: 0.5, 299: 0.23}, "what the base could solve is not known; evaluate before the first step"),
    ],
)
def test_pass_at_k_before_the_first_step_says_what_could_be_had_back(values: Series, says: str) -> None:
    run = signals(support.stalled())
    run.series["pass_at_k"], run.names["pass_at_k"] = values, "p@8"
    found = diagnose(run, SETTINGS)
    assert [note for note in found.notes if says in note]
    assert (found.signals["pass_at_k"].first, found.signals["pass_at_k"].last) == (
        next(iter(values.values())),
        values[299],
    )


def test_a_single_pass_at_k_says_nothing() -> None:
    run = signals(support.stalled())
    run.series["pass_at_k"], run.names["pass_at_k"] = {0: 0.5}, "p@8"
    assert not [note for note in diagnose(run, SETTINGS).notes if "p@8" in note]
