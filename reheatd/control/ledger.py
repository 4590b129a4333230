"""Every durable step of the control loop: the journal of its decisions, and the records of the jobs they concern.

A decision and the job's record are written in one transaction. The journal is append-only; its newest transition gives
the present state.
"""

import asyncio
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable

from reheatd.access.caller import ACTOR
from reheatd.control.journal import JournalEntry
from reheatd.control.states import State, check_status, check_transition
from reheatd.jobs.contracts import Job, JobRequest, JobStatus, Trigger
from reheatd.jobs.store import ACTIVE, JobRecord, JobStore

ANSWERS: tuple[Trigger, ...] = ("collapse", "stall", "run_away")
"""Triggers of the jobs with which the daemon answers a verdict."""

TABLES = """
CREATE TABLE IF NOT EXISTS journal (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    event TEXT NOT NULL,
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    reason TEXT NOT NULL,
    job_id TEXT,
    version INTEGER,
    actor TEXT
);
"""


TICK_S = 1e-3
"""Least time between an entry of the journal and what comes after it, in seconds."""
ENTRIES_AT_ONCE = 50
"""Entries that are read before other tasks have their turn."""


class Ledger:
    """The journal and the jobs. Methods write synchronously: once one returns, its step survives a crash."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.jobs = JobStore(db)
        self.on_entry: Callable[[], None] | None = None
        """Called when the journal gets an entry, in the transaction that stores it."""
        self.on_job: Callable[[str], None] | None = None
        """Called with the id of a job that changes, perhaps in the transaction that stores the change."""
        self.on_status: Callable[[JobRecord], None] | None = None
        """Called when the status of a job changes, before its record is stored."""
        with db:
            db.executescript(TABLES)

    @property
    def state(self) -> State:
        row = self._db.execute(
            "SELECT to_state FROM journal WHERE event = 'transition' ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return State(row["to_state"]) if row else State.SERVING

    @property
    def newest_transition(self) -> JournalEntry | None:
        """The entry that led to the present state; None if the journal has none yet."""
        row = self._db.execute("SELECT * FROM journal WHERE event = 'transition' ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else JournalEntry.model_validate(dict(row))

    def entries(self, count: int) -> list[JournalEntry]:
        """The newest `count` entries of the journal, oldest first."""
        rows = self._db.execute("SELECT * FROM journal ORDER BY id DESC LIMIT ?", (count,)).fetchall()
        return [JournalEntry.model_validate(dict(row)) for row in reversed(rows)]

    @property
    def newest_id(self) -> int:
        """Number of the newest entry of the journal; 0 if it is empty."""
        return self._db.execute("SELECT COALESCE(MAX(id), 0) AS id FROM journal").fetchone()["id"]

    def after(self, entry_id: int) -> list[JournalEntry]:
        """The first entries of the journal behind `entry_id`, oldest first, and no more than `ENTRIES_AT_ONCE`."""
        rows = self._db.execute(
            "SELECT * FROM journal WHERE id > ? ORDER BY id LIMIT ?", (entry_id, ENTRIES_AT_ONCE)
        ).fetchall()
        return [JournalEntry.model_validate(dict(row)) for row in rows]

    async def stream(self, count: int) -> AsyncIterator[list[str]]:
        """What `entries` returns as JSON, in parts, so that a long journal stops no stream of a client."""
        newest = self.newest_id
        # Entries are never deleted, so their ids have no gaps.
        for first in range(max(1, newest - count + 1), newest + 1, ENTRIES_AT_ONCE):
            last = min(first + ENTRIES_AT_ONCE - 1, newest)
            rows = self._db.execute("SELECT * FROM journal WHERE id BETWEEN ? AND ? ORDER BY id", (first, last))
            yield [JournalEntry.model_validate(dict(row)).model_dump_json() for row in rows]
            await asyncio.sleep(0)

    def save(self, record: JobRecord) -> None:
        with self._db:
            self._keep(record)

    def progressed(self, record: JobRecord) -> None:
        """Tells that a job has progressed, where that is stored later or not at all."""
        if self.on_job is not None:
            self.on_job(record.job.job_id)

    def create(
        self,
        request: JobRequest,
        trigger: Trigger,
        status: JobStatus,
        parent_version: int,
        *,
        job_id: str | None = None,
    ) -> JobRecord:
        """Records a new job that waits to be run.

        Args:
            job_id: The id of a job that has files already; default: a new one.
        """
        record = new_record(request, trigger, status, parent_version)
        record.job.job_id = job_id or record.job.job_id
        self.save(record)
        return record

    def transition(self, state: State, reason: str, *, version: int | None = None) -> None:
        """Changes the control state to `state`.

        Raises:
            IllegalTransitionError: `state` cannot follow the present state.
        """
        with self._db:
            self._transition(state, reason, version=version)

    def promoted(self, version: int, reason: str, *, job_id: str | None = None, at: float | None = None) -> None:
        """Records a promotion that is not the successful end of a job.

        Args:
            at: When `policy` began to mean `version`, in seconds since the epoch; default: now.
        """
        with self._db:
            self._promoted(version, reason, job_id=job_id, at=at)

    def advance(self, record: JobRecord, status: JobStatus, state: State, reason: str) -> None:
        """Changes the status of a job and the control state together."""
        check_status(record.job.status, status)
        record.job.status = status
        self._tell_status(record)
        with self._db:
            self._keep(record)
            if self.state is not state:
                self._transition(state, reason, job_id=record.job.job_id, version=record.job.version)

    def finish(self, record: JobRecord, status: JobStatus, error: str | None, state: State) -> None:
        """Ends a job. If it was the active job, the control state becomes `state`."""
        was_active = record.job.status in ACTIVE
        with self._db:
            self._end(record, status, error)
            if was_active and self.state is not state:
                reason = f"{record.job.job_id} {status}" + (f": {error}" if error else "")
                self._transition(state, reason, job_id=record.job.job_id, version=record.job.version)

    def succeed(
        self, record: JobRecord, version: int, reason: str, *, promoted_at: float, follow_up: JobRequest | None
    ) -> None:
        """Ends a job whose `version` is promoted. A `follow_up` job comes next, before all other jobs."""
        job = record.job
        with self._db:
            self._promoted(version, reason, job_id=job.job_id, at=promoted_at)
            self._end(record, JobStatus.SUCCEEDED, None)
            self._withdraw_answers(reason)
            if follow_up is None:
                self._transition(State.SERVING, reason, job_id=job.job_id, version=version)
            else:
                following = new_record(follow_up, "follow_up", JobStatus.QUEUED, version)
                self._keep(following)
                why = f"{following.job.job_id} follows {job.job_id}"
                self._transition(State.CONTINUING_RL, why, job_id=following.job.job_id, version=version)

    def change_idle_state(self, state: State, reason: str, version: int) -> None:
        """Changes one idle state for another, and withdraws jobs that wait to answer the verdict before."""
        with self._db:
            self._transition(state, reason, version=version)
            self._withdraw_answers(reason)

    def requested(self, what: str, *, job_id: str | None = None, version: int | None = None) -> None:
        """Records that somebody did what `what` says, where no other entry says so."""
        with self._db:
            self._append("requested", self.state, self.state, what, job_id, version)

    def resume(self) -> None:
        """Records that somebody has looked at what was paused, so that the daemon may go on by itself."""
        with self._db:
            self._append("resumed", self.state, self.state, "resumed by request", None, None)

    @property
    def promoted_version(self) -> int:
        """The version of the newest promotion that was recorded; 0 if none was."""
        row = self._db.execute(
            "SELECT version FROM journal WHERE event = 'promoted' ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return 0 if row is None else row["version"]

    def resumed_at(self) -> float:
        """When somebody last resumed what was paused, in seconds since the epoch; 0 if nobody did."""
        row = self._db.execute("SELECT MAX(time) AS time FROM journal WHERE event = 'resumed'").fetchone()
        return row["time"] or 0.0

    def _transition(self, new: State, reason: str, *, job_id: str | None = None, version: int | None = None) -> None:
        old = self.state
        check_transition(old, new)
        self._append("transition", old, new, reason, job_id, version)

    def _promoted(self, version: int, reason: str, *, job_id: str | None = None, at: float | None = None) -> None:
        self._append("promoted", self.state, self.state, reason, job_id, version, at)

    def _append(
        self,
        event: str,
        old: State,
        new: State,
        reason: str,
        job_id: str | None,
        version: int | None,
        at: float | None = None,
    ) -> None:
        """Adds an entry in the caller's transaction, so that it is stored together with the job's record."""
        self._db.execute(
            "INSERT INTO journal (time, event, from_state, to_state, reason, job_id, version, actor) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self._now() if at is None else at, event, old, new, reason, job_id, version, ACTOR.get()),
        )
        if self.on_entry is not None:
            self.on_entry()

    def _keep(self, record: JobRecord) -> None:
        """Stores a job in the caller's transaction."""
        self.jobs.save(record)
        self.progressed(record)

    def _withdraw_answers(self, reason: str) -> None:
        for record in self.jobs.waiting():
            # A version that is trained already is worth a decision even if the policy recovered by itself.
            if record.job.trigger in ANSWERS and record.job.version is None:
                self._end(record, JobStatus.CANCELLED, reason)

    def _end(self, record: JobRecord, status: JobStatus, error: str | None) -> None:
        check_status(record.job.status, status)
        record.job.status = status
        record.job.error = error
        record.job.phase = ""
        record.job.finished_at = self._now()
        self._tell_status(record)
        self._keep(record)

    def _tell_status(self, record: JobRecord) -> None:
        if self.on_status is not None:
            self.on_status(record)

    def _now(self) -> float:
        """Seconds since the epoch, but later than the newest entry of the journal even if the clock was set back.

        By these times it is told what happened since somebody resumed.
        """
        row = self._db.execute("SELECT time FROM journal ORDER BY id DESC LIMIT 1").fetchone()
        return time.time() if row is None else max(time.time(), row["time"] + TICK_S)


def new_job_id(kind: str) -> str:
    # The id is random because several daemons, or one with a new data folder, may share one broker.
    return f"{kind}-{secrets.token_hex(4)}"


def new_record(request: JobRequest, trigger: Trigger, status: JobStatus, parent_version: int) -> JobRecord:
    job = Job(
        job_id=new_job_id(request.kind),
        kind=request.kind,
        status=status,
        trigger=trigger,
        created_at=time.time(),
        parent_version=parent_version,
        request=request,
    )
    return JobRecord(job=job)
