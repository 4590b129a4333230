"""What happened to the policy, from the journal, for curves and the lists beside them."""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from reheatd.dashboard.charts import Mark, Span
from reheatd.database import connect_to_read
from reheatd.entropy.history import Curve
from reheatd.names import version_name

Kind = Literal["promoted", "collapsed", "job", "request", "other"]
KINDS: dict[Kind, str] = {
    "promoted": "swap",
    "collapsed": "collapse",
    "job": "job",
    "request": "user",
    "other": "stalled or too hot",
}
"""What a mark of each kind is called."""
STATES: dict[str, Kind] = {
    "collapsed": "collapsed",
    "stalled": "other",
    "too_hot": "other",
    "reheating": "job",
    "continuing_rl": "job",
    "importing": "job",
}
"""The kinds of the transitions that are marked, by the state that they lead to."""
ROWS_AT_ONCE = 5000
BINS = 400
"""Marks of one kind, and versions, that a curve shows at most: more would be closer than lines can be told apart."""
QUERY = (
    "SELECT id, time, event, to_state, reason, job_id, version, actor FROM journal WHERE id > ? "
    f"AND (event != 'transition' OR to_state IN ({', '.join(map(repr, STATES))})) ORDER BY id LIMIT ?"
)


@dataclass(frozen=True)
class Happening:
    """An entry of the journal that is marked on curves."""

    id: int
    """Number of the entry."""
    time: float
    """Seconds since the epoch."""
    kind: Kind
    reason: str
    job_id: str | None
    version: int | None
    actor: str | None
    """Who asked for it; None if the daemon decided it."""

    @property
    def what(self) -> str:
        """The kind in a word or two."""
        return KINDS[self.kind]


class Happenings:
    """Reads the journal beside the event loop, and keeps what it has read.

    Args:
        database: The daemon's database, in which the journal exists.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._found: list[Happening] = []
        self._reading = asyncio.Lock()

    async def all(self) -> Sequence[Happening]:
        """Everything so far, oldest first. The list grows; do not change it."""
        async with self._reading:
            await asyncio.to_thread(self._read_on)
        return self._found

    def _read_on(self) -> None:
        last = self._found[-1].id if self._found else 0
        with closing(connect_to_read(self._database)) as db:
            while rows := db.execute(QUERY, (last, ROWS_AT_ONCE)).fetchall():
                last = rows[-1]["id"]
                self._found += [
                    Happening(row["id"], row["time"], _kind(row["event"], row["to_state"]), *row[4:]) for row in rows
                ]


def _kind(event: str, state: str) -> Kind:
    if event == "transition":
        return STATES[state]
    return "promoted" if event == "promoted" else "request"


def between(happenings: Iterable[Happening], start: float | None, end: float | None) -> list[Happening]:
    """Those from `start` to `end`, in seconds since the epoch; None leaves that side open."""
    return [
        happening
        for happening in happenings
        if (start is None or happening.time >= start) and (end is None or happening.time <= end)
    ]


def marks(happenings: Iterable[Happening], start: float, end: float) -> list[Mark]:
    """Marks for a curve from `start` to `end`; of those at the same place and of one kind, the first stands for all."""
    width, seen = (end - start) / BINS or 1.0, set[tuple[str, int]]()
    found: list[Mark] = []
    for happening in between(happenings, start, end):
        place = happening.kind, int((happening.time - start) / width)
        if place not in seen:
            seen.add(place)
            found.append(Mark(label=happening.reason[:200], x=happening.time, kind=happening.kind))
    return found


def served(happenings: Iterable[Happening], probes: Curve) -> list[tuple[float, int]]:
    """When which version began to be served, oldest first.

    The windows say it for the time before the journal's first promotion.
    """
    promotions = sorted(
        (one.time, one.version) for one in happenings if one.kind == "promoted" and one.version is not None
    )
    before = probes.between(None, promotions[0][0]) if promotions else probes
    changes = np.flatnonzero(before.version[1:] != before.version[:-1]) + 1
    begins = [0, *changes.tolist()] if len(before) else []
    return [*((float(before.time[begin]), int(before.version[begin])) for begin in begins), *promotions]


def spans(versions: Sequence[tuple[float, int]], start: float, end: float) -> list[Span]:
    """The versions as spans of a curve from `start` to `end`; those too narrow to be seen are left out."""
    least = (end - start) / BINS
    found: list[Span] = []
    for (begin, version), (until, _) in itertools.pairwise([*versions, (end, 0)]):
        begin, until = max(begin, start), min(until, end)
        if until > begin and until - begin >= least:
            found.append(Span(label=version_name(version), start=begin, end=until))
    return found
