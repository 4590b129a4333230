"""The daemon's SQLite file."""

import sqlite3
from pathlib import Path


def connect(path: Path) -> sqlite3.Connection:
    """Opens or creates the database; every commit is durable, and rows are addressed by column name.

    All parts of the daemon share one connection; each module creates its own tables.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    return db
