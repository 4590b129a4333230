"""Jobs as pages, read beside the daemon's own connection."""

import asyncio
from pathlib import Path

import pytest

from reheatd.control.ledger import Ledger
from reheatd.database import StateError, connect, reading
from reheatd.errors import NotFoundError
from reheatd.jobs.contracts import JobStatus, RLRequest
from reheatd.jobs.history import JobHistory


def test_what_is_committed_is_read_while_the_daemon_writes(tmp_path: Path) -> None:
    file = tmp_path / "reheatd.sqlite3"
    db = connect(file)
    ledger, history = Ledger(db), JobHistory(file)
    job_id = ledger.create(RLRequest(steps=7), "manual", JobStatus.QUEUED, 0).job.job_id

    async def read() -> list[str]:
        return [job.job_id for job in (await history.page(10, kind="rl", status=JobStatus.QUEUED)).jobs]

    with db:
        db.execute("UPDATE jobs SET status = 'running'")
        assert asyncio.run(read()) == [job_id], "as it was before the transaction"
    assert asyncio.run(read()) == []
    record = asyncio.run(history.record(job_id))
    assert record.job.request == RLRequest(steps=7) and record.spec is None and record.result is None
    db.close()


@pytest.mark.parametrize("damaged", ["{", "{}", '{"job": {"job_id": "rl-1"}}'])
def test_a_damaged_record_costs_no_other(tmp_path: Path, damaged: str) -> None:
    file = tmp_path / "reheatd.sqlite3"
    db = connect(file)
    ledger, history = Ledger(db), JobHistory(file)
    lost, kept = (ledger.create(RLRequest(), "manual", JobStatus.QUEUED, 0).job.job_id for _ in range(2))
    with db:
        db.execute("UPDATE jobs SET record = ? WHERE job_id = ?", (damaged, lost))
    page = asyncio.run(history.page(10))
    assert [job.job_id for job in page.jobs] == [kept]
    with pytest.raises(StateError, match=f"the record of job {lost} is damaged .* `reheatd restore`"):
        asyncio.run(history.record(lost))
    with pytest.raises(NotFoundError, match="job rl-none does not exist"):
        asyncio.run(history.record("rl-none"))
    db.close()


def test_a_database_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"gone\.sqlite3 cannot be read"), reading(tmp_path / "gone.sqlite3") as db:
        db.execute("SELECT 1")
