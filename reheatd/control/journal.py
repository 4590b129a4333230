"""What the control loop did and when: append-only, in SQLite. The newest transition is the present state."""

import sqlite3
import time
from typing import Literal

from pydantic import BaseModel, ConfigDict

from reheatd.control.machine import State, check_transition

TABLES = """
CREATE TABLE IF NOT EXISTS journal (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    event TEXT NOT NULL,
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    reason TEXT NOT NULL,
    job_id TEXT,
    version INTEGER
);
"""


class JournalEntry(BaseModel):
    """One row. A `promoted` event says that `version` is what `policy` means from `time` on; it changes no state."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    id: int
    time: float
    """Seconds since the epoch."""
    event: Literal["transition", "promoted"]
    from_state: State
    to_state: State
    reason: str
    job_id: str | None
    version: int | None
    """Transition: the version served at that moment, or the one a job made. Promoted: the new version."""


class Journal:
    """Appends within the caller's transaction (`with db:`), so that a job's row and its transition land together."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        with db:
            db.executescript(TABLES)

    @property
    def state(self) -> State:
        row = self._db.execute(
            "SELECT to_state FROM journal WHERE event = 'transition' ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return State(row["to_state"]) if row else State.SERVING

    def transition(self, new: State, reason: str, *, job_id: str | None = None, version: int | None = None) -> None:
        """Raises:
        IllegalTransitionError: `new` does not follow the present state.
        """
        old = self.state
        check_transition(old, new)
        self._append("transition", old, new, reason, job_id, version)

    def promoted(self, version: int, reason: str, *, job_id: str | None = None, at: float | None = None) -> None:
        """Records that `version` is what `policy` means, since `at` (seconds since the epoch; default: now)."""
        self._append("promoted", self.state, self.state, reason, job_id, version, at)

    def last(self, count: int) -> list[JournalEntry]:
        """The newest `count` entries, oldest first."""
        rows = self._db.execute("SELECT * FROM journal ORDER BY id DESC LIMIT ?", (count,)).fetchall()
        return [JournalEntry.model_validate(dict(row)) for row in reversed(rows)]

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
        self._db.execute(
            "INSERT INTO journal (time, event, from_state, to_state, reason, job_id, version) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (time.time() if at is None else at, event, old, new, reason, job_id, version),
        )
