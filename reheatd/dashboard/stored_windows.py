"""Stored windows by the row, for tables and downloads; they are read beside the event loop, some at a time."""

import asyncio
import csv
import io
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path

from reheatd.database import Record, connect_to_read, readable
from reheatd.entropy.live import LiveWindow
from reheatd.entropy.series import Window

ROWS_AT_ONCE = 500

COLUMNS = (
    "time_utc",
    "source",
    "version_or_job",
    "measured_by",
    "occasion",
    "verdict",
    "entropy_nats_per_token",
    "low_nats_per_token",
    "high_nats_per_token",
    "tokens",
    "sequences",
    "baseline_nats_per_token",
    "collapsed_below_nats_per_token",
    "measuring_seconds",
)
"""Columns of the CSV file."""
_FIGURES = ", ".join(f"window->>'$.estimate.{name}'" for name in ("mean", "low", "high", "tokens", "sequences"))
_TIME = "id, strftime('%Y-%m-%dT%H:%M:%fZ', time, 'unixepoch')"
PROBES = (
    f"SELECT {_TIME}, 'probe', 'policy-v' || version, 'control_variate', window->>'$.source', window->>'$.verdict', "
    f"{_FIGURES}, window->>'$.baseline', window->>'$.threshold', window->>'$.seconds' FROM entropy_windows "
    "WHERE key = ? AND id > ? AND json_valid(window) ORDER BY id LIMIT ?"
)
LIVE = (
    f"SELECT {_TIME}, source, version, window->>'$.measured_by', NULL, NULL, {_FIGURES}, NULL, NULL, NULL "
    "FROM live_windows WHERE id > ? AND json_valid(window) ORDER BY id LIMIT ?"
)


class StoredWindows:
    """Reads windows beside the event loop.

    Args:
        database: The daemon's database, in which the tables of `EntropySeries` and `LiveSeries` exist.
        key: Key of the series of the probes.
    """

    def __init__(self, database: Path, key: str) -> None:
        self._database = database
        self._key = key

    async def probes(self, ids: Sequence[int]) -> list[Window]:
        """The windows of the probes with these numbers, the newest first."""
        return await asyncio.to_thread(self._read, Window, "entropy_windows", ids)

    async def live(self, ids: Sequence[int]) -> list[LiveWindow]:
        """The live windows with these numbers, the newest first."""
        return await asyncio.to_thread(self._read, LiveWindow, "live_windows", ids)

    def _read(self, record: type[Record], table: str, ids: Sequence[int]) -> list[Record]:
        places = ", ".join("?" for _ in ids)
        with closing(connect_to_read(self._database)) as db:
            rows = db.execute(f"SELECT id, window FROM {table} WHERE id IN ({places}) ORDER BY id DESC", tuple(ids))
            return readable(record, rows, column="window", key="id")

    async def csv(self) -> AsyncIterator[str]:
        """All windows, first those of the probes, as lines of a CSV file with a header."""
        yield _csv([COLUMNS])
        with closing(connect_to_read(self._database)) as db:
            for query, values in ((PROBES, (self._key,)), (LIVE, ())):
                last = 0
                while True:
                    read = await asyncio.to_thread(_part, db.execute, query, (*values, last, ROWS_AT_ONCE))
                    if read is None:
                        break
                    last, text = read
                    yield text


def _part(execute: Callable[..., sqlite3.Cursor], query: str, values: tuple[object, ...]) -> tuple[int, str] | None:
    rows = execute(query, values).fetchall()
    return (rows[-1][0], _csv([tuple(row)[1:] for row in rows])) if rows else None


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
