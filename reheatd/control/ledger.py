"""Every durable step of the control loop: a job's row and the journal's entry in one transaction."""

import secrets
import sqlite3
import time
from typing import Literal

from reheatd.control.journal import Journal
from reheatd.control.machine import State, check_status
from reheatd.jobs.contracts import Job, JobRequest, JobStatus
from reheatd.jobs.store import ACTIVE, JobRecord, JobStore

Trigger = Literal["manual", "collapse", "follow_up"]


class Ledger:
    """Writes synchronously: when a method returns, its step survives a crash."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.journal = Journal(db)
        self.jobs = JobStore(db)

    @property
    def state(self) -> State:
        return self.journal.state

    def save(self, record: JobRecord) -> None:
        with self._db:
            self.jobs.save(record)

    def create(self, request: JobRequest, trigger: Trigger, status: JobStatus, parent_version: int) -> JobRecord:
        """A new job that waits to be run."""
        record = new_record(request, trigger, status, parent_version)
        self.save(record)
        return record

    def transition(self, state: State, reason: str, *, version: int | None = None) -> None:
        with self._db:
            self.journal.transition(state, reason, version=version)

    def promoted(self, version: int, reason: str, *, job_id: str | None = None, at: float | None = None) -> None:
        """Records a promotion that is not the successful end of a job."""
        with self._db:
            self.journal.promoted(version, reason, job_id=job_id, at=at)

    def advance(self, record: JobRecord, status: JobStatus, state: State, reason: str) -> None:
        """Moves a job and the control state on together."""
        check_status(record.job.status, status)
        record.job.status = status
        with self._db:
            self.jobs.save(record)
            if self.state is not state:
                self.journal.transition(state, reason, job_id=record.job.job_id, version=record.job.version)

    def finish(self, record: JobRecord, status: JobStatus, error: str | None, state: State) -> None:
        """Ends a job; if it was the one at work, the control state becomes `state`."""
        was_active = record.job.status in ACTIVE
        with self._db:
            self._end(record, status, error)
            if was_active and self.state is not state:
                reason = f"{record.job.job_id} {status}" + (f": {error}" if error else "")
                self.journal.transition(state, reason, job_id=record.job.job_id, version=record.job.version)

    def succeed(
        self, record: JobRecord, version: int, reason: str, *, promoted_at: float, follow_up: JobRequest | None
    ) -> None:
        """Ends a job whose `version` is promoted; with `follow_up`, that job is next and nothing comes between."""
        job = record.job
        with self._db:
            self.journal.promoted(version, reason, job_id=job.job_id, at=promoted_at)
            self._end(record, JobStatus.SUCCEEDED, None)
            self._withdraw_collapse_jobs(reason)
            if follow_up is None:
                self.journal.transition(State.SERVING, reason, job_id=job.job_id, version=version)
            else:
                following = new_record(follow_up, "follow_up", JobStatus.QUEUED, version)
                self.jobs.save(following)
                why = f"{following.job.job_id} follows {job.job_id}"
                self.journal.transition(State.CONTINUING_RL, why, job_id=following.job.job_id, version=version)

    def recover(self, reason: str, version: int) -> None:
        """From `collapsed` back to `serving`; jobs that wait to answer the collapse are withdrawn."""
        with self._db:
            self.journal.transition(State.SERVING, reason, version=version)
            self._withdraw_collapse_jobs(reason)

    def _withdraw_collapse_jobs(self, reason: str) -> None:
        for record in self.jobs.waiting():
            if record.job.trigger == "collapse":
                self._end(record, JobStatus.CANCELLED, reason)

    def _end(self, record: JobRecord, status: JobStatus, error: str | None) -> None:
        check_status(record.job.status, status)
        record.job.status = status
        record.job.error = error
        record.job.phase = ""
        record.job.finished_at = time.time()
        self.jobs.save(record)


def new_record(request: JobRequest, trigger: Trigger, status: JobStatus, parent_version: int) -> JobRecord:
    # Random: several daemons, or the same one with a new data folder, may share one broker.
    job = Job(
        job_id=f"{request.kind}-{secrets.token_hex(4)}",
        kind=request.kind,
        status=status,
        trigger=trigger,
        created_at=time.time(),
        parent_version=parent_version,
        request=request,
    )
    return JobRecord(job=job)
