"""Entropy of what the policy really decodes, apart from the probes: windows by version and by who asked.

They come from the engine's tap, from requests whose logprobs the gateway asked for on its own, and from jobs, which
measure their own rollouts. The tap sends totals since its start, so a window is what was added since the last window.
Nothing is lost or counted twice if a message is lost or the daemon restarts in between.
"""

import asyncio
import json
import logging
import socket
import sqlite3
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import NamedTuple

from reheatd.database import StateError, newest, readable
from reheatd.entropy.windows import LiveWindow, MeasuredBy
from reheatd.errors import ConfigError
from reheatd.tap.moments import Moments
from reheatd.tap.seal import Opener
from reheatd.tap.wire import TapTotals

logger = logging.getLogger(__name__)

TABLES = """
CREATE TABLE IF NOT EXISTS live_windows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    version TEXT NOT NULL,
    source TEXT NOT NULL,
    window TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS live_windows_by_source ON live_windows (source, id);
CREATE TABLE IF NOT EXISTS live_sums (
    run TEXT PRIMARY KEY,
    time REAL NOT NULL,
    moments TEXT NOT NULL
);
"""
KEEP_SUMS_S = 86_400.0
COMPLAIN_EVERY_S = 60.0
"""Least time between two log lines about dropped datagrams, which anybody may send in any number, in seconds."""


class LiveSeries:
    """Turns the tap's totals into windows and keeps them."""

    def __init__(self, db: sqlite3.Connection, *, confidence: float) -> None:
        self.rejected = 0
        """Datagrams that were dropped: forged, repeated, too old or no totals of a tap."""
        self.on_window: Callable[[LiveWindow], None] | None = None
        """Called with each window once it is recorded. It must not block."""
        self._db = db
        self._confidence = confidence
        self._totals: dict[_Key, dict[str, Moments]] = defaultdict(dict)
        """Totals by what was measured, then by the tap's run that sent them."""
        self._run = uuid.uuid4().hex
        with db:
            db.executescript(TABLES)
        self._newest = self._stored_newest()
        """The newest window by source and way of measuring; the table may be long, and streams would wait for it."""

    def take(self, totals: TapTotals) -> None:
        """Keeps the newest totals that a run of a tap has sent."""
        self._totals[_Key(totals.version, totals.source, "tap")][totals.run] = totals.moments

    def add(self, version: str, source: str, measured_by: MeasuredBy, entropies: list[float]) -> None:
        """Adds one finished sequence, given the entropy of each of its tokens in nats."""
        own = self._totals[_Key(version, source, measured_by)]
        own.setdefault(f"{self._run} {version} {source} {measured_by}", Moments()).add(entropies)

    def close_windows(self) -> list[LiveWindow]:
        """Records one window for each version and source that has at least two new sequences."""
        windows = []
        for key, runs in self._totals.items():
            moments = sum((totals - self._read(run) for run, totals in runs.items()), Moments())
            estimate = moments.interval(self._confidence)
            if estimate is None:
                continue
            window = LiveWindow(**key._asdict(), estimate=estimate, by_position=moments.by_position())
            self._record(window, runs)
            windows.append(window)
        return windows

    def append(self, window: LiveWindow) -> None:
        """Records a window that was measured elsewhere."""
        self._record(window, {})

    def newest(self) -> list[LiveWindow]:
        """The newest window of each source and each way of measuring, oldest first."""
        return [*self._newest.values()]

    def last(self, count: int, source: str | None = None) -> list[LiveWindow]:
        """The newest `count` windows, oldest first; only those of `source` if it is given."""
        where, values = ("", ()) if source is None else ("WHERE source = ?", (source,))
        rows = self._db.execute(
            f"SELECT id, window FROM live_windows {where} ORDER BY id DESC LIMIT ?", (*values, count)
        ).fetchall()
        return readable(LiveWindow, reversed(rows), column="window", key="id")

    def stream(self, count: int, source: str | None = None) -> AsyncIterator[list[str]]:
        """What `last` returns as JSON, in parts; see `reheatd.database.newest`."""
        where, values = ("TRUE", ()) if source is None else ("source = ?", (source,))
        return newest(self._db, "live_windows", "window", count, where=where, values=values)

    def _stored_newest(self) -> dict[tuple[str, str], LiveWindow]:
        rows = self._db.execute(
            "SELECT id, window FROM live_windows WHERE id IN (SELECT MAX(id) FROM live_windows "
            "WHERE json_valid(window) GROUP BY source, json_extract(window, '$.measured_by')) ORDER BY id"
        ).fetchall()
        windows = readable(LiveWindow, rows, column="window", key="id")
        return {(window.source, window.measured_by): window for window in windows}

    def _record(self, window: LiveWindow, runs: dict[str, Moments]) -> None:
        """Stores the window and the totals at which it was taken, in one transaction."""
        with self._db:
            self._db.execute(
                "INSERT INTO live_windows (time, version, source, window) VALUES (?, ?, ?, ?)",
                (window.time, window.version, window.source, window.model_dump_json()),
            )
            for run, totals in runs.items():
                self._db.execute(
                    "INSERT OR REPLACE INTO live_sums VALUES (?, ?, ?)",
                    (run, window.time, json.dumps(asdict(totals))),
                )
        key = window.source, window.measured_by
        self._newest.pop(key, None)  # so that the newest comes last
        self._newest[key] = window
        self._forget(window.time - KEEP_SUMS_S)
        if self.on_window is not None:
            self.on_window(window)

    def _forget(self, before: float) -> None:
        """Drops runs that have added nothing since `before`, from memory and database alike.

        A run that only the memory kept would be counted again from the start.
        """
        rows = self._db.execute("SELECT run FROM live_sums WHERE time < ?", (before,)).fetchall()
        for runs in self._totals.values():
            for row in rows:
                runs.pop(row["run"], None)
        with self._db:
            self._db.execute("DELETE FROM live_sums WHERE time < ?", (before,))

    def _read(self, run: str) -> Moments:
        row = self._db.execute("SELECT moments FROM live_sums WHERE run = ?", (run,)).fetchone()
        return Moments() if row is None else Moments(**json.loads(row["moments"]))


class _Key(NamedTuple):
    version: str
    source: str
    measured_by: MeasuredBy


async def close_windows_every(interval_s: float, series: LiveSeries) -> None:
    """Closes the windows of `series` every `interval_s` seconds, until cancelled."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            series.close_windows()
        except StateError as error:
            logger.warning("live windows are recorded later: %s", error.message)


class TapListener(asyncio.DatagramProtocol):
    """Receives what the taps of all engines send to a UDP socket.

    Datagrams that are not sealed with `key` are dropped and counted in the series that it fills.

    Args:
        listener: A bound socket, which `close` closes.
        key: The key that the engines' taps seal with; see `reheatd.tap.seal`.
    """

    def __init__(self, listener: socket.socket, key: str) -> None:
        self._listener = listener
        self._opener = Opener(key)
        self._series: LiveSeries | None = None
        self._complained_at = -COMPLAIN_EVERY_S

    @property
    def address(self) -> str:
        """host:port for the engines."""
        return "{}:{}".format(*self._listener.getsockname()[:2])

    async def run(self, series: LiveSeries) -> None:
        """Fills `series` until cancelled."""
        self._series = series
        # The event loop closes the socket that it is given, so it gets a duplicate: `run` may be called again.
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, sock=self._listener.dup()
        )
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            transport.close()

    def close(self) -> None:
        self._listener.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        series = self._series
        assert series is not None
        try:
            series.take(TapTotals.decode(self._opener.open(data)))
        except ValueError as error:
            series.rejected += 1
            if time.monotonic() - self._complained_at >= COMPLAIN_EVERY_S:
                self._complained_at = time.monotonic()
                logger.warning("datagram from %s:%d dropped, %d so far: %s", *addr[:2], series.rejected, error)


def tap_socket(address: str) -> socket.socket:
    """A UDP socket bound to host:port; port 0 picks a free one.

    Raises:
        ConfigError: The address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, found = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setblocking(False)
            made.bind(found)
        except OSError:
            made.close()
            raise
    except (OSError, UnicodeError) as error:  # the name of a host has limits of its own
        why = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise ConfigError(
            f"entropy.tap_address = {address!r} cannot be listened on: {why}; name another one, or set "
            "entropy.tap to 'off'",
            param="entropy.tap_address",
        ) from error
    return made
