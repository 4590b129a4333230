"""The learning signal of a run of RL over its jobs."""

from pathlib import Path

import pytest

from reheatd.api.learning import learning_view
from reheatd.config_tables import EntropySection
from reheatd.database import connect
from reheatd.entropy.learning import LearningSignal

SETTINGS = EntropySection(stall_steps=4, stall_groups=0.5)
MADE_BY = {1: "rl-1", 2: "rl-2", 3: "reheat-3", 4: "rl-4"}


def signal_in(folder: Path) -> LearningSignal:
    return LearningSignal(connect(folder / "db.sqlite3"), SETTINGS, MADE_BY.get)


def metrics(varied: float, all_pass: float = 0.0, **more: float) -> dict[str, float]:
    return {
        "groups": 8.0,
        "groups_varied": varied,
        "groups_all_fail": 8.0 - varied - all_pass,
        "groups_all_pass": all_pass,
        **more,
    }


def add(signal: LearningSignal, job_id: str, parent: int, varied: list[float]) -> list[bool]:
    """Adds the steps of a job; whether the run has stalled after each."""
    found = []
    for step, count in enumerate(varied, start=1):
        signal.add(job_id, parent, step, metrics(count))
        found.append(signal.is_stalled(parent))
    return found


def test_a_run_stalls_over_its_jobs_and_a_reheat_begins_anew(tmp_path: Path) -> None:
    signal = signal_in(tmp_path)
    assert add(signal, "rl-1", 0, [5, 5, 0, 0]) == [False] * 4
    assert add(signal, "rl-2", 1, [0, 0]) == [False, True]
    signal = signal_in(tmp_path)
    assert signal.is_stalled(1) and signal.is_stalled(2)  # the version that stalled, and the one that the job made
    assert not signal.is_stalled(0) and not signal.is_stalled(3)
    assert add(signal, "rl-4", 3, [0, 0, 0, 0]) == [False, False, False, True]
    assert [step.number for step in signal.last(9, 4)] == [1, 2, 3, 4]
    assert not signal.last(9, 2)  # it came back by a rollback: another run has been learning since


def test_a_job_that_brought_no_version_counts_for_its_parent(tmp_path: Path) -> None:
    signal = signal_in(tmp_path)
    add(signal, "rl-8", 1, [0, 0])
    assert add(signal, "rl-9", 1, [0, 0]) == [False, True]


def test_a_stalled_run_stays_so_until_the_margin_is_passed(tmp_path: Path) -> None:
    # Means over four steps: 0, then 0.25, 0.5, 0.575, 0.65; the threshold is 0.5 and with the margin 0.6.
    assert add(signal_in(tmp_path), "rl-1", 0, [0, 0, 0, 0, 1, 1, 0.3, 0.3]) == [*[False] * 3, *[True] * 4, False]
    without_stall = add(signal_in(tmp_path), "rl-2", 1, [1, 1, 0.3, 0.3])
    assert without_stall == [False] * 4


def test_problems_that_are_all_solved_are_no_stall(tmp_path: Path) -> None:
    signal = signal_in(tmp_path)
    for step in range(1, 9):
        signal.add("rl-1", 0, step, metrics(0, all_pass=7))
    assert not signal.is_stalled(0)


def test_steps_that_a_resumed_job_takes_again_count_once(tmp_path: Path) -> None:
    signal = signal_in(tmp_path)
    add(signal, "rl-1", 0, [0, 0, 0])
    signal.add("rl-1", 0, 2, metrics(8))
    assert [step.varied for step in signal.last(9, 0)] == [0, 8]
    signal.add("rl-1", 0, 3, {"reward": 0.5})  # no report of a whole step
    assert len(signal.last(9, 0)) == 2


def test_the_view_shows_trends_and_what_diagnose_would_note(tmp_path: Path) -> None:
    signal = signal_in(tmp_path)
    assert learning_view(signal, 0, SETTINGS) is None
    for step in range(1, 101):
        spike = 50.0 if step == 70 else 1.0
        reward = step / 100 if step <= 60 else 0.2
        signal.add("rl-1", 0, step, metrics(4, all_pass=1, reward=reward, grad_norm=spike))
    view = learning_view(signal, 0, SETTINGS)
    assert view is not None
    assert (view.steps, view.groups, view.varied, view.all_fail, view.all_pass) == (100, 8, 4, 3, 1)
    assert (view.trends["reward"].first, view.trends["reward"].last) == (pytest.approx(0.03), pytest.approx(0.2))
    notes = " ".join(view.notes)
    assert "reward has fallen" in notes and "spikes at 1 of 100 logged steps, first at step 70" in notes
