"""Jobs in SQLite: what users see of them, and what the daemon needs to continue after a restart."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from reheatd.database import StateError, connect_to_read, first_line, in_parts, readable
from reheatd.errors import NotFoundError
from reheatd.jobs.contracts import DataPlace, Job, JobResult, JobSpec, JobStatus, Trigger
from reheatd.measures import Contract

TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    trigger TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status);
"""
JOBS_AT_ONCE = 5
"""Jobs that are read before other tasks have their turn."""
ACTIVE = (JobStatus.RUNNING, JobStatus.GATING, JobStatus.SWAPPING)
WAITING = (JobStatus.AWAITING_APPROVAL, JobStatus.QUEUED)


class RolloutAdapter(Contract):
    """A snapshot of the running job's policy that is loaded only for the job's rollouts."""

    name: str
    path: Path


class JobRecord(Contract):
    """A job with the fields that only the daemon needs."""

    job: Job
    spec: JobSpec | None = None
    """The job's specification; None until the job is dispatched."""
    submitted: bool = False
    """Whether the present attempt is known to have reached the broker."""
    begun: bool = False
    """Whether a worker is known to have begun the present attempt."""
    event_id: str = "0"
    """Stream id of the last event that was handled."""
    result: JobResult | None = None
    """What training handed over; an import goes on without a record of its result."""
    cancel_requested: bool = False
    traceparent: str | None = None
    """W3C context of the span that the job's trace began with; None if it is not traced."""
    rollout_adapters: list[RolloutAdapter] = Field(default_factory=list)
    """Rollout adapters that are loaded now, oldest first."""


class JobStore:
    """The records of all jobs. `save` joins the caller's transaction (`with db:`)."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        with db:
            db.executescript(TABLES)

    def save(self, record: JobRecord) -> None:
        job = record.job
        self._db.execute(
            "INSERT INTO jobs (job_id, status, trigger, record) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (job_id) DO UPDATE SET status = excluded.status, record = excluded.record",
            (job.job_id, job.status, job.trigger, record.model_dump_json()),
        )

    def get(self, job_id: str) -> JobRecord:
        """The record of a job.

        Raises:
            NotFoundError: There is no such job.
            StateError: Its record is damaged.
        """
        row = self._db.execute("SELECT record FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        if row is None:
            raise NotFoundError(f"job {job_id} does not exist; `reheatd jobs list` shows those that do", param="job_id")
        try:
            return JobRecord.model_validate_json(row["record"])
        except ValidationError as error:
            raise StateError(
                f"the record of job {job_id} is damaged ({first_line(error)}); restore a back-up with `reheatd restore`"
            ) from error

    def status(self, job_id: str) -> JobStatus | None:
        """The status of a job; None if there is no such job."""
        row = self._db.execute("SELECT status FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else JobStatus(row["status"])

    def all(self) -> list[Job]:
        """All jobs whose records can be read, oldest first."""
        return [record.job for record in self._records("ORDER BY number")]

    async def stream(self) -> AsyncIterator[list[str]]:
        """What `all` returns as JSON, in parts, so that a long history stops no stream of a client."""
        numbers = [row["number"] for row in self._db.execute("SELECT number FROM jobs ORDER BY number")]
        async for part in in_parts(numbers, JOBS_AT_ONCE):
            marks = ", ".join("?" for _ in part)
            # A record is much longer than its job, because it has the proof items of the result.
            rows = self._db.execute(
                "SELECT job_id, CASE WHEN json_valid(record) THEN json_extract(record, '$.job') ELSE record END AS job "
                f"FROM jobs WHERE number IN ({marks}) ORDER BY number",
                part,
            ).fetchall()
            yield [job.model_dump_json() for job in readable(Job, rows, column="job", key="job_id")]

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of jobs by kind and status. A job's id begins with its kind."""
        rows = self._db.execute(
            "SELECT substr(job_id, 1, instr(job_id, '-') - 1) AS kind, status, COUNT(*) AS number FROM jobs "
            "GROUP BY kind, status"
        ).fetchall()
        return {(row["kind"], row["status"]): row["number"] for row in rows}

    def active(self) -> JobRecord | None:
        """The job that is being trained, gated or swapped in; there is at most one."""
        records = self._with_status(ACTIVE)
        return records[0] if records else None

    def waiting(self) -> list[JobRecord]:
        """Jobs that are queued or await approval, in the order in which they will run.

        Jobs that were trained already and wait for approval of their version come before those that would start from
        the same parent, after which the version could not be promoted any more.
        """
        records = self._with_status(WAITING)
        return sorted(records, key=lambda record: (record.job.trigger != "follow_up", record.job.version is None))

    def newest_first(self, *triggers: Trigger) -> Iterator[JobRecord]:
        """The records of the jobs with these triggers, the newest first; they are read as they are asked for."""
        marks = ", ".join("?" for _ in triggers)
        for row in self._db.execute(
            f"SELECT job_id, record FROM jobs WHERE trigger IN ({marks}) ORDER BY number DESC", triggers
        ):
            yield from readable(JobRecord, [row], column="record", key="job_id")

    def data_places(self) -> list[DataPlace]:
        """Where RL stopped in the problems of every task that it was trained on.

        Only jobs that were trained to their end count. A job whose version was rejected is one of them: the same
        problems with the same random numbers would be rejected again.
        """
        rows = self._db.execute(
            "SELECT * FROM (SELECT job_id, CASE WHEN json_valid(record) THEN "
            "json_extract(record, '$.result.place') END AS place FROM jobs) WHERE place IS NOT NULL"
        ).fetchall()
        places = readable(DataPlace, rows, column="place", key="job_id")
        # Every job goes on from the furthest place, so the furthest is the newest, in whichever order jobs were queued.
        return list({place.problem_set: place for place in sorted(places, key=lambda place: place.drawn)}.values())

    def _with_status(self, statuses: tuple[JobStatus, ...]) -> list[JobRecord]:
        marks = ", ".join("?" for _ in statuses)
        return self._records(f"WHERE status IN ({marks}) ORDER BY number", statuses)

    def _records(self, which: str, values: tuple[str, ...] = ()) -> list[JobRecord]:
        rows = self._db.execute(f"SELECT job_id, record FROM jobs {which}", values).fetchall()
        return readable(JobRecord, rows, column="record", key="job_id")


class JobReader:
    """Reads the records of jobs in another process than the daemon, which writes meanwhile.

    Raises:
        StateError: The database cannot be opened.
    """

    def __init__(self, database: Path) -> None:
        self._db = connect_to_read(database)

    def since(self, number: int) -> list[tuple[int, str, bool]]:
        """Number and id of the jobs from `number` on, oldest first, and whether they are over."""
        rows = self._db.execute("SELECT number, job_id, status FROM jobs WHERE number >= ? ORDER BY number", (number,))
        return [(row["number"], row["job_id"], JobStatus(row["status"]).is_final) for row in rows]

    @property
    def newest(self) -> int:
        """Number of the newest job; 0 if there is none."""
        return self._db.execute("SELECT COALESCE(MAX(number), 0) AS number FROM jobs").fetchone()["number"]

    def first_open(self) -> int:
        """Number of the oldest job that is not over; one behind the newest if all are."""
        return next((number for number, _, is_over in self.since(0) if not is_over), self.newest + 1)

    def get(self, job_id: str) -> JobRecord | None:
        """The record of a job; None if it cannot be read, which is logged."""
        rows = self._db.execute("SELECT job_id, record FROM jobs WHERE job_id = ?", (job_id,)).fetchall()
        return next(iter(readable(JobRecord, rows, column="record", key="job_id")), None)
