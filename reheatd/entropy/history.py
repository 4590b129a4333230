"""The stored windows as arrays, for curves over any length of time; read beside the event loop, and then kept.

A window's JSON is long, so only its figures are kept: 100,000 windows take 6 MB.
"""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from reheatd.database import connect_to_read
from reheatd.entropy.live import MeasuredBy

ROWS_AT_ONCE = 5000
WAYS: tuple[MeasuredBy, ...] = get_args(MeasuredBy)
"""The ways of measuring; a curve has their places in here."""

Floats = NDArray[np.float64]

PROBES = (
    "SELECT id, time, version, 'control_variate', "
    "window->>'$.estimate.mean', window->>'$.estimate.low', window->>'$.estimate.high' "
    "FROM entropy_windows WHERE key = ? AND id > ? AND json_valid(window) ORDER BY id LIMIT ?"
)
LIVE = (
    "SELECT id, time, version, window->>'$.measured_by', "
    "window->>'$.estimate.mean', window->>'$.estimate.low', window->>'$.estimate.high' "
    "FROM live_windows WHERE source = ? AND id > ? AND json_valid(window) ORDER BY id LIMIT ?"
)


@dataclass(frozen=True)
class Curve:
    """Windows in the order in which they were recorded; all arrays have the same length."""

    id: NDArray[np.int64]
    """Numbers of the rows in the windows' table."""
    time: Floats
    """Seconds since the epoch."""
    version: NDArray[np.object_]
    """A version's number or, of live windows, its name or that of the job, as text."""
    way: NDArray[np.int8]
    """How each was measured, as a place in `WAYS`; -1 for a way that this version of reheatd does not know."""
    mean: Floats
    """Nats per token, like the next two."""
    low: Floats
    high: Floats

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, chosen: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Curve":
        return Curve(*(getattr(self, column.name)[chosen] for column in fields(self)))

    def between(self, start: float | None, end: float | None) -> "Curve":
        """The windows from `start` to `end`, in seconds since the epoch; None leaves that side open."""
        inside = np.ones(len(self), dtype=bool)
        if start is not None:
            inside &= self.time >= start
        if end is not None:
            inside &= self.time <= end
        return self[inside]

    def measured_by(self, way: MeasuredBy) -> "Curve":
        """The windows that were measured in one way."""
        return self[self.way == WAYS.index(way)]

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
        self.curve = _curve([])
        self._query = query
        self._of = of
        self._last_id = 0

    def read_on(self, database: Path) -> None:
        # A connection of its own, because the daemon's belongs to the event loop's thread.
        with closing(connect_to_read(database)) as db:
            parts = [self.curve]
            while rows := db.execute(self._query, (self._of, self._last_id, ROWS_AT_ONCE)).fetchall():
                parts.append(_curve(rows))
                self._last_id = int(parts[-1].id[-1])
        if len(parts) > 1:
            columns = [column.name for column in fields(Curve)]
            self.curve = Curve(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def _curve(rows: Sequence[Iterable[Any]]) -> Curve:
    ids, times, versions, ways, *figures = zip(*rows, strict=True) if rows else [()] * 7
    places: dict[str, int] = {way: place for place, way in enumerate(WAYS)}
    return Curve(
        np.array(ids, dtype=np.int64),
        np.array(times, dtype=float),
        np.array([sys.intern(str(version)) for version in versions], dtype=object),
        np.array([places.get(way, -1) for way in ways], dtype=np.int8),
        *(np.array(column, dtype=float) for column in figures),
    )
