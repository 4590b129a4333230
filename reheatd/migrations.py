"""The versions of the database's schema, and the steps from each to the next.

A step belongs here if the code cannot read any more what an earlier version of reheatd stored. A new table or index
needs none, because the modules create what is missing, and neither does a new field of a record that has a default.
"""

import sqlite3
from collections.abc import Callable, Sequence

Migration = Callable[[sqlite3.Connection], None]


def number(db: sqlite3.Connection) -> None:
    """From a database without a number, as reheatd wrote it at first: its tables are those of version 1."""


def name_actors(db: sqlite3.Connection) -> None:
    """From a journal that does not say who asked for a change; some databases without a number have the column."""
    columns = [row[1] for row in db.execute("PRAGMA table_info(journal)")]
    if columns and "actor" not in columns:
        db.execute("ALTER TABLE journal ADD COLUMN actor TEXT")


MIGRATIONS: Sequence[Migration] = (number, name_actors)
"""Each takes a database from the version of its place, counted from 0, to the next. They run in transactions, so they
must not use `executescript`, which commits."""
SCHEMA_VERSION = len(MIGRATIONS)


def schema_version(db: sqlite3.Connection) -> int:
    """The version that the database says it has; 0 if it has no number."""
    return db.execute("PRAGMA user_version").fetchone()[0]


def is_empty(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0] == 0


def migrate(db: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Takes the database to the newest version, one step at a time; after a crash, it goes on with the next step.

    Raises:
        sqlite3.Error: A step failed; the database is as it was before that step.
    """
    for version in range(schema_version(db), len(migrations)):
        db.execute("BEGIN IMMEDIATE")
        try:
            migrations[version](db)
            db.execute(f"PRAGMA user_version = {version + 1}")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
