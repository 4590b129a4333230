"""The jobs of a daemon as pages, read beside the event loop."""

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reheatd.database import StateError, first_line, page_of_rows, readable, reading
from reheatd.errors import NotFoundError
from reheatd.jobs.contracts import Job, JobStatus
from reheatd.jobs.store import JobRecord

# A record is much longer than its job, because it has the proof items of the result.
JOBS = (
    "SELECT number, job_id, CASE WHEN json_valid(record) THEN json_extract(record, '$.job') ELSE record END AS job "
    "FROM jobs"
)
RECORD = (
    "SELECT CASE WHEN json_valid(record) THEN json_remove(record, '$.result') ELSE record END AS record FROM jobs "
    "WHERE job_id = ?"
)


@dataclass(frozen=True)
class JobPage:
    """Jobs, the newest first."""

    jobs: list[Job]
    newest: int | None
    """Number of the first job of the page; None if it is empty."""
    oldest: int | None
    newer: bool
    """Whether there may be newer ones."""
    older: bool
    """Whether there are older ones."""


class JobHistory:
    """Reads the table that `JobStore` writes, in the database in this file."""

    def __init__(self, database: Path) -> None:
        self._database = database

    async def page(
        self,
        count: int,
        *,
        kind: str | None = None,
        status: JobStatus | None = None,
        before: int | None = None,
        after: int | None = None,
    ) -> JobPage:
        """The newest `count` jobs of a kind and with a status. Jobs whose records are damaged are left out.

        Args:
            kind, status: None stands for any.
            before: Only jobs before the one with this number.
            after: Only jobs after the one with this number, the oldest of them; takes the place of `before`.

        Raises:
            StateError: The database cannot be read.
        """
        every = {"substr(job_id, 1, instr(job_id, '-') - 1) = ?": kind, "status = ?": status}
        conditions = {condition: value for condition, value in every.items() if value is not None}
        return await asyncio.to_thread(self._page, conditions, count, before, after)

    async def record(self, job_id: str) -> JobRecord:
        """The record of a job, without its result.

        Raises:
            NotFoundError: There is no such job.
            StateError: Its record is damaged, or the database cannot be read.
        """
        row = await asyncio.to_thread(self._row, job_id)
        if row is None:
            raise NotFoundError(f"job {job_id} does not exist; the page Jobs has those that do", param="job_id")
        try:
            return JobRecord.model_validate_json(row["record"])
        except ValidationError as error:
            raise StateError(
                f"the record of job {job_id} is damaged ({first_line(error)}); restore a back-up with `reheatd restore`"
            ) from error

    def _page(self, conditions: dict[str, Any], count: int, before: int | None, after: int | None) -> JobPage:
        with reading(self._database) as db:
            page = page_of_rows(db, JOBS, conditions, key="number", before=before, after=after, count=count)
        numbers = [row["number"] for row in page.rows]
        return JobPage(
            readable(Job, page.rows, column="job", key="job_id"),
            numbers[0] if numbers else None,
            numbers[-1] if numbers else None,
            page.newer,
            page.older,
        )

    def _row(self, job_id: str) -> sqlite3.Row | None:
        with reading(self._database) as db:
            return db.execute(RECORD, (job_id,)).fetchone()
