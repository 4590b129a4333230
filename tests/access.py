"""The guard in front of what a test serves, and the credentials of jobs that it knows."""

import sqlite3
from collections.abc import Callable

from starlette.types import ASGIApp

from reheatd.access.guard import Access, Guard
from reheatd.access.jobs import JobCredentials
from reheatd.access.keys import KeyRing
from reheatd.access.quotas import Quotas

CREDENTIALS = JobCredentials(b"a secret that only tests know")


def guarded(
    app: ASGIApp,
    db: sqlite3.Connection,
    *,
    required: bool = False,
    is_current: Callable[[str, int], bool] = lambda job_id, attempt: True,
    quotas: Quotas | None = None,
) -> Guard:
    return Guard(app, Access(KeyRing(db), quotas or Quotas(), CREDENTIALS, is_current, required))


def as_job(job_id: str, attempt: int = 1) -> dict[str, str]:
    """The headers of a job's requests."""
    return {"authorization": f"Bearer {CREDENTIALS.of(job_id, attempt)}"}
