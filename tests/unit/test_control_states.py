"""States and ledger."""

from pathlib import Path

import pytest

from reheatd.control.ledger import Ledger
from reheatd.control.states import IDLE, TRANSITIONS, IllegalTransitionError, State
from reheatd.database import connect
from reheatd.errors import NotFoundError
from reheatd.jobs.contracts import JobStatus, ReheatRequest, RLRequest


def test_every_busy_state_can_fall_back_to_an_idle_one() -> None:
    assert set(TRANSITIONS) == set(State)
    for state, following in TRANSITIONS.items():
        assert state not in following
        if state not in IDLE:
            assert set(IDLE) <= following


def test_the_state_is_where_the_journal_ends_also_after_a_restart(tmp_path: Path) -> None:
    ledger = Ledger(connect(tmp_path / "db.sqlite3"))
    assert ledger.state is State.SERVING
    ledger.transition(State.COLLAPSED, "low", version=1)
    ledger.promoted(2, "by request")
    again = Ledger(connect(tmp_path / "db.sqlite3"))
    assert again.state is State.COLLAPSED
    first, second = again.entries(10)
    assert (first.from_state, first.to_state, first.reason, first.version) == ("serving", "collapsed", "low", 1)
    assert (second.event, second.version) == ("promoted", 2)
    assert again.entries(1) == [second]


def test_an_illegal_transition_leaves_no_trace(tmp_path: Path) -> None:
    ledger = Ledger(connect(tmp_path / "db.sqlite3"))
    record = ledger.create(ReheatRequest(), "manual", JobStatus.QUEUED, 0)
    with pytest.raises(IllegalTransitionError):
        ledger.advance(record, JobStatus.RUNNING, State.GATING, "no such way")
    assert ledger.state is State.SERVING
    assert ledger.jobs.get(record.job.job_id).job.status is JobStatus.QUEUED


def test_follow_ups_come_before_what_waited_longer(tmp_path: Path) -> None:
    ledger = Ledger(connect(tmp_path / "db.sqlite3"))
    triggers = ("manual", "manual", "follow_up")
    made = [ledger.create(RLRequest(), trigger, JobStatus.QUEUED, 0).job.job_id for trigger in triggers]
    assert [record.job.job_id for record in ledger.jobs.waiting()] == [made[2], made[0], made[1]]


def test_an_unknown_job_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="reheat-x"):
        Ledger(connect(tmp_path / "db.sqlite3")).jobs.get("reheat-x")
