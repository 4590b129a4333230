"""The stored windows as arrays, for curves over any length of time; read beside the event loop, and then kept.

A window's JSON is long, so only its figures are kept: 100,000 windows take 5 MB.
"""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 5000

Floats = NDArray[np.float64]

PROBES = (
    "SELECT id, time, version, window->>'$.estimate.mean', window->>'$.estimate.low', window->>'$.estimate.high' "
    "FROM entropy_windows WHERE key = ? AND id > ? AND json_valid(window) ORDER BY id LIMIT ?"
)
LIVE = (
    "SELECT id, time, version, window->>'$.estimate.mean', window->>'$.estimate.low', window->>'$.estimate.high' "
    "FROM live_windows WHERE source = ? AND id > ? AND json_valid(window) ORDER BY id LIMIT ?"
)


@dataclass(frozen=True)
class Curve:
    """Windows in the order in which they were recorded; all arrays have the same length."""

    time: Floats
    """Seconds since the epoch."""
    version: NDArray[np.str_]
    """A version's number or, of live windows, its name, as text."""
    mean: Floats
    """Nats per token, like the next two."""
    low: Floats
    high: Floats

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, chosen: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Curve":
        return Curve(self.time[chosen], self.version[chosen], self.mean[chosen], self.low[chosen], self.high[chosen])

    def between(self, start: float | None, end: float | None) -> "Curve":
        """The windows from `start` to `end`, in seconds since the epoch; None leaves that side open."""
        inside = np.ones(len(self), dtype=bool)
        if start is not None:
            inside &= self.time >= start
        if end is not None:
            inside &= self.time <= end
        return self[inside]

    def thinned(self, points: int) -> "Curve":
        """At most `points` windows, at least 4: of equal stretches the lowest and the highest, so that no dip is lost.

        The newest window is always among them.
        """
        if len(self) <= points:
            return self
        edges = np.linspace(0, len(self) - 1, (points - 1) // 2 + 1).astype(int)
        chosen = {len(self) - 1}
        for begin, end in pairwise(edges):
            stretch = self.mean[begin:end]
            chosen.add(begin + int(stretch.argmin()))
            chosen.add(begin + int(stretch.argmax()))
        return self[np.array(sorted(chosen))]


class EntropyHistory:
    """Curves of the probes and of each source of live windows.

    Args:
        database: The daemon's database, in which the tables of `EntropySeries` and `LiveSeries` exist.
        key: Key of the series of the probes.
    """

    def __init__(self, database: Path, key: str) -> None:
        self._database = database
        self._probes = _Kept(PROBES, key)
        self._live: dict[str, _Kept] = {}
        self._reading = asyncio.Lock()

    async def probes(self) -> Curve:
        """All windows of the probes."""
        return await self._up_to_date(self._probes)

    async def live(self, source: str) -> Curve:
        """All live windows of a source."""
        return await self._up_to_date(self._live.setdefault(source, _Kept(LIVE, source)))

    async def _up_to_date(self, kept: "_Kept") -> Curve:
        async with self._reading:
            await asyncio.to_thread(kept.read_on, self._database)
        return kept.curve


class _Kept:
    """What has been read of one curve so far."""

    def __init__(self, query: str, of: str) -> None:
        empty = np.empty(0)
        self.curve = Curve(empty, np.empty(0, dtype=np.str_), empty, empty, empty)
        self._query = query
        self._of = of
        self._last_id = 0

    def read_on(self, database: Path) -> None:
        # A connection of its own, because the daemon's belongs to the event loop's thread.
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as db:
            parts = [self.curve]
            while rows := db.execute(self._query, (self._of, self._last_id, ROWS_AT_ONCE)).fetchall():
                ids, times, versions, *figures = zip(*rows, strict=True)
                self._last_id = ids[-1]
                parts.append(
                    Curve(np.array(times, dtype=float), np.array(list(map(str, versions))), *map(_floats, figures))
                )
        if len(parts) > 1:
            columns = ("time", "version", "mean", "low", "high")
            self.curve = Curve(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def _floats(values: tuple[float | None, ...]) -> Floats:
    return np.array(values, dtype=float)
