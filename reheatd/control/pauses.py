"""What the daemon has stopped doing by itself, because it failed twice in a row in the same way.

Nothing is stored for it: the records of the jobs say it, and the journal says when somebody last resumed.
"""

import re
from collections.abc import Iterable
from typing import Literal

from reheatd.control.journal import Pause
from reheatd.control.ledger import ANSWERS, Ledger
from reheatd.jobs.contracts import JobStatus, Trigger
from reheatd.jobs.store import JobRecord

REPEATS = 2
"""Jobs in a row that end in the same way before no further one is started."""
FIGURES = re.compile(r"[a-z]+-[0-9a-f]{8}|\d+(\.\d+)?")
"""What differs between two errors of the same kind: ids of jobs, and numbers."""


def brought_nothing(record: JobRecord) -> bool:
    """Whether a round of RL that is over brought no new version, or ended because its rollouts taught nothing."""
    return record.job.status is not JobStatus.SUCCEEDED or _without_signal(record)


def paused_reheats(ledger: Ledger) -> Pause | None:
    """The pause of reheats and coolings that answer a verdict; one that succeeded resets the count."""
    records = (record for record in ledger.jobs.newest_first(*ANSWERS, "manual") if record.job.kind == "reheat")
    return _pause("reheats", _in_a_row(records, ANSWERS, ledger.resumed_at()))


def paused_rounds(ledger: Ledger) -> Pause | None:
    """The pause of rounds of continuous RL; any job that brought a new version resets the count."""
    records = (
        record for record in ledger.jobs.newest_first(*ANSWERS, "manual", "round") if record.job.kind != "import"
    )
    return _pause("rounds", _in_a_row(records, ("round",), ledger.resumed_at()))


def _in_a_row(records: Iterable[JobRecord], counted: tuple[Trigger, ...], since: float) -> list[JobRecord]:
    """The newest jobs that brought nothing, up to one that did or that somebody cancelled; at most `REPEATS`.

    Args:
        records: The newest first.
        counted: Triggers of the jobs that count. Other jobs end the row only if they brought a new version.
        since: Only jobs that ended later count, in seconds since the epoch.
    """
    found: list[JobRecord] = []
    for record in records:
        job, counts = record.job, record.job.trigger in counted
        if job.finished_at is None:
            continue
        if job.finished_at <= since or not brought_nothing(record) or (counts and job.status is JobStatus.CANCELLED):
            break
        if counts:
            found.append(record)
        if len(found) == REPEATS:
            break
    return found


def _pause(what: Literal["reheats", "rounds"], row: list[JobRecord]) -> Pause | None:
    if len(row) < REPEATS or len({_way(record) for record in row}) > 1:
        return None
    newest = row[0].job
    how = _way(row[0]) if newest.error is None else newest.error
    jobs = " and ".join(record.job.job_id for record in reversed(row))
    return Pause(
        what=what,
        since=newest.finished_at or 0.0,
        why=f"{jobs} ended in the same way: {how}; `reheatd control resume` goes on",
    )


def _way(record: JobRecord) -> str:
    """How a job ended, in words that are the same for two jobs that ended in the same way."""
    failed = [gate.name for gate in record.job.gates if gate.outcome == "failed"]
    if _without_signal(record):
        return "its rollouts taught nothing any more"
    if failed:
        return "gate " + ", ".join(failed)
    return f"{record.job.status}: {FIGURES.sub('#', record.job.error or '')}"


def _without_signal(record: JobRecord) -> bool:
    return record.result is not None and record.result.stopped == "no_signal"
