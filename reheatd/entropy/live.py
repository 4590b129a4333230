"""Entropy of what the policy really decodes, apart from the probes: windows by version and by who asked.

Sums come from the engine's tap. They are its totals since it started, so a window is what was added since the last
one, and nothing is lost or counted twice when a message or the daemon goes missing in between.
"""

import asyncio
import json
import logging
import socket
import sqlite3
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from pydantic import BaseModel, ConfigDict, Field

from reheatd.entropy.moments import Moments
from reheatd.entropy.tap_report import TapReport
from reheatd.jobs.contracts import EntropyEstimate

logger = logging.getLogger(__name__)

TABLES = """
CREATE TABLE IF NOT EXISTS live_windows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    version TEXT NOT NULL,
    source TEXT NOT NULL,
    window TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS live_sums (
    run TEXT PRIMARY KEY,
    time REAL NOT NULL,
    moments TEXT NOT NULL
);
"""
KEEP_SUMS_S = 86_400.0


class PositionMean(BaseModel):
    """Mean over the tokens from one position up to the next entry's."""

    model_config = ConfigDict(extra="forbid")

    position: int
    tokens: int
    mean: float


class LiveWindow(BaseModel):
    """Exact entropy of the tokens that were decoded for one version and source; nats per token."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    time: float = Field(default_factory=time.time)
    version: str
    """The version's name, or for rollouts the job's."""
    source: str
    """`live`: clients; `probe`: the daemon's windows; `rollout`: a training job."""
    estimate: EntropyEstimate
    by_position: list[PositionMean]


class LiveSeries:
    """Turns the tap's totals into windows and keeps them."""

    def __init__(self, db: sqlite3.Connection, *, confidence: float) -> None:
        self._db = db
        self._confidence = confidence
        self._totals: dict[tuple[str, str, str], Moments] = {}
        with db:
            db.executescript(TABLES)

    def take(self, report: TapReport) -> None:
        """Keeps the newest totals of a run of a tap."""
        self._totals[report.run, report.version, report.source] = report.moments

    def close_windows(self) -> list[LiveWindow]:
        """Records one window for each version and source with at least two new sequences; fewer wait for more."""
        added: dict[tuple[str, str], Moments] = defaultdict(Moments)
        runs = defaultdict(list)
        for (run, version, source), totals in self._totals.items():
            added[version, source] += totals - self._read(run)
            runs[version, source].append(run)
        windows = []
        for (version, source), moments in added.items():
            estimate = moments.interval(self._confidence)
            if estimate is None:
                continue
            positions = [
                PositionMean(position=position, tokens=tokens, mean=mean)
                for position, tokens, mean in moments.by_position()
            ]
            window = LiveWindow(version=version, source=source, estimate=estimate, by_position=positions)
            self._record(window, runs[version, source])
            windows.append(window)
        return windows

    def last(self, count: int, source: str | None = None) -> list[LiveWindow]:
        """The newest `count` windows, oldest first; of one source if given."""
        rows = self._db.execute(
            "SELECT window FROM live_windows WHERE (? IS NULL OR source = ?) ORDER BY id DESC LIMIT ?",
            (source, source, count),
        ).fetchall()
        return [LiveWindow.model_validate_json(row["window"]) for row in reversed(rows)]

    def _record(self, window: LiveWindow, runs: Sequence[str]) -> None:
        """The window and the totals it was taken at: both or neither."""
        with self._db:
            self._db.execute(
                "INSERT INTO live_windows (time, version, source, window) VALUES (?, ?, ?, ?)",
                (window.time, window.version, window.source, window.model_dump_json()),
            )
            for run in runs:
                totals = self._totals[run, window.version, window.source]
                self._db.execute(
                    "INSERT OR REPLACE INTO live_sums VALUES (?, ?, ?)",
                    (run, window.time, json.dumps(asdict(totals))),
                )
            self._db.execute("DELETE FROM live_sums WHERE time < ?", (window.time - KEEP_SUMS_S,))

    def _read(self, run: str) -> Moments:
        row = self._db.execute("SELECT moments FROM live_sums WHERE run = ?", (run,)).fetchone()
        return Moments() if row is None else Moments(**json.loads(row["moments"]))


class TapListener(asyncio.DatagramProtocol):
    """Hears the taps of every engine on a UDP socket, and closes a window every `interval_s` seconds."""

    def __init__(self, series: LiveSeries, listener: socket.socket, *, interval_s: float) -> None:
        self._series = series
        self._listener = listener
        self._interval_s = interval_s

    async def run(self) -> None:
        """Until cancelled."""
        # A socket of the event loop's own: it closes what it is given, and this part may be started again.
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, sock=self._listener.dup()
        )
        try:
            while True:
                await asyncio.sleep(self._interval_s)
                self._series.close_windows()
        finally:
            transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            self._series.take(TapReport.decode(data))
        except ValueError as error:
            logger.warning("datagram from %s:%d ignored: %s", *addr[:2], error)


def tap_socket(address: str) -> socket.socket:
    """A UDP socket bound to host:port; port 0 picks a free one.

    Raises:
        OSError: The address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    family, kind, protocol, _, found = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    try:
        made.bind(found)
    except OSError:
        made.close()
        raise
    return made
