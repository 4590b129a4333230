"""The entropy series in SQLite, where windows, the baseline and the tail model's statistics survive restarts."""

import hashlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator

import numpy as np

from reheatd.database import newest, readable
from reheatd.entropy.detector import DetectorState
from reheatd.entropy.estimators import TailMoments
from reheatd.entropy.windows import Window
from reheatd.measures import EntropyEstimate

TABLES = """
CREATE TABLE IF NOT EXISTS entropy_windows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    version INTEGER NOT NULL,
    key TEXT NOT NULL,
    window TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS entropy_windows_by_key ON entropy_windows (key, id);
CREATE INDEX IF NOT EXISTS entropy_windows_by_version ON entropy_windows (key, version, id);
CREATE TABLE IF NOT EXISTS entropy_baselines (key TEXT PRIMARY KEY, time REAL NOT NULL, estimate TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entropy_tails (key TEXT PRIMARY KEY, moments TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entropy_lengths (key TEXT PRIMARY KEY, time REAL NOT NULL, max_tokens INTEGER NOT NULL);
"""

WINDOW_FORMAT = 2
"""Changes with the fields of a stored window; windows of other formats belong to other series."""


def series_key(
    model_digest: str,
    probe_digest: str,
    *,
    max_tokens: int | str,
    top_k: int,
    windows: int,
    baseline: str | None = None,
) -> str:
    """A key that is equal for two windows, or a window and a baseline, only if they measure the same quantity.

    Args:
        model_digest: Digest of the base model's files.
        probe_digest: Digest of the probes in use.
        max_tokens: Longest answer or, if it is found once for the series, the rule by which it is found.
        windows: Number of windows in a baseline.
        baseline: What the baseline is, if it is not the base model's own entropy.
    """
    parts = [WINDOW_FORMAT, model_digest, probe_digest, max_tokens, top_k, windows]
    if baseline is not None:
        parts.append(baseline)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class EntropySeries:
    """Windows and baselines under one key. Rows of other keys stay in the file but are not part of this series."""

    def __init__(self, db: sqlite3.Connection, key: str) -> None:
        self._db = db
        self.key = key
        with db:
            db.executescript(TABLES)

    def append(self, window: Window, tail: TailMoments) -> None:
        """Adds a window and its tail draws, in one transaction."""
        moments = self.tail_moments().followed_by(tail)
        packed = {"gram": moments.gram.tolist(), "cross": moments.cross.tolist(), "draws": moments.draws}
        with self._db:
            self._db.execute(
                "INSERT INTO entropy_windows (time, version, key, window) VALUES (?, ?, ?, ?)",
                (window.time, window.version, self.key, window.model_dump_json()),
            )
            self._db.execute("INSERT OR REPLACE INTO entropy_tails VALUES (?, ?)", (self.key, json.dumps(packed)))

    def last(self, count: int, version: int | None = None) -> list[Window]:
        """The newest `count` windows, oldest first; only those of `version` if it is given."""
        where, values = (
            ("key = ?", (self.key,)) if version is None else ("key = ? AND version = ?", (self.key, version))
        )
        rows = self._db.execute(
            f"SELECT id, window FROM entropy_windows WHERE {where} ORDER BY id DESC LIMIT ?", (*values, count)
        ).fetchall()
        return readable(Window, reversed(rows), column="window", key="id")

    def stream(self, count: int) -> AsyncIterator[list[str]]:
        """The newest `count` windows as JSON, oldest first, in parts; see `reheatd.database.newest`."""
        return newest(self._db, "entropy_windows", "window", count, where="key = ?", values=(self.key,))

    def detector_state(self) -> DetectorState | None:
        """The detector's state after the newest window; None if there is no window."""
        windows = self.last(1)
        return windows[0].detector if windows else None

    def baseline(self) -> EntropyEstimate | None:
        rows = self._db.execute("SELECT key, estimate FROM entropy_baselines WHERE key = ?", (self.key,)).fetchall()
        found = readable(EntropyEstimate, rows, column="estimate", key="key")
        return found[0] if found else None

    def save_baseline(self, estimate: EntropyEstimate) -> None:
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO entropy_baselines VALUES (?, ?, ?)",
                (self.key, time.time(), estimate.model_dump_json()),
            )

    def max_tokens(self) -> int | None:
        """The longest answer of this series, if it was found rather than configured; None before it is found."""
        row = self._db.execute("SELECT max_tokens FROM entropy_lengths WHERE key = ?", (self.key,)).fetchone()
        return None if row is None else row["max_tokens"]

    def save_max_tokens(self, max_tokens: int) -> None:
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO entropy_lengths VALUES (?, ?, ?)", (self.key, time.time(), max_tokens)
            )

    def tail_moments(self) -> TailMoments:
        """Statistics of all tail draws so far, with old windows faded. The next window's c(s) is fitted on them."""
        row = self._db.execute("SELECT moments FROM entropy_tails WHERE key = ?", (self.key,)).fetchone()
        if row is None:
            return TailMoments()
        packed = json.loads(row["moments"])
        return TailMoments(np.array(packed["gram"]), np.array(packed["cross"]), packed["draws"])
