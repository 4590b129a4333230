"""The journal as pages of entries that fit a filter; they are read beside the event loop."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reheatd.control.journal import JournalEntry
from reheatd.database import page_of_rows, reading

ENTRIES = "SELECT id, time, event, from_state, to_state, reason, job_id, version, actor FROM journal"
ESCAPES = str.maketrans({"%": r"\%", "_": r"\_", "\\": r"\\"})


@dataclass(frozen=True)
class JournalFilter:
    """What entries must have; None stands for anything."""

    event: str | None = None
    job_id: str | None = None
    version: int | None = None
    actor: str | None = None
    text: str | None = None
    """Part of the reason, in upper or lower case."""
    start: float | None = None
    """Seconds since the epoch, like `end`."""
    end: float | None = None

    @property
    def conditions(self) -> dict[str, Any]:
        """The conditions in SQL, each with its value."""
        text = None if self.text is None else f"%{self.text.translate(ESCAPES)}%"
        every = {
            "event = ?": self.event,
            "job_id = ?": self.job_id,
            "version = ?": self.version,
            "actor = ?": self.actor,
            r"reason LIKE ? ESCAPE '\'": text,
            "time >= ?": self.start,
            "time <= ?": self.end,
        }
        return {condition: value for condition, value in every.items() if value is not None}


@dataclass(frozen=True)
class JournalPage:
    """Entries of the journal, the newest first."""

    entries: list[JournalEntry] = field(default_factory=list)
    newer: bool = False
    """Whether there may be newer ones."""
    older: bool = False
    """Whether there are older ones."""


class Journal:
    """Reads the table that `Ledger` writes, in the database in this file."""

    def __init__(self, database: Path) -> None:
        self._database = database

    async def page(
        self, wanted: JournalFilter, count: int, *, before: int | None = None, after: int | None = None
    ) -> JournalPage:
        """The newest `count` entries that fit.

        Args:
            before: Only entries with a smaller number.
            after: Only entries with a larger number, the oldest of them; takes the place of `before`.

        Raises:
            StateError: The database cannot be read.
        """
        return await asyncio.to_thread(self._read, wanted, count, before, after)

    def _read(self, wanted: JournalFilter, count: int, before: int | None, after: int | None) -> JournalPage:
        with reading(self._database) as db:
            page = page_of_rows(db, ENTRIES, wanted.conditions, key="id", before=before, after=after, count=count)
        entries = [JournalEntry.model_validate(dict(row)) for row in page.rows]
        return JournalPage(entries, page.newer, page.older)
