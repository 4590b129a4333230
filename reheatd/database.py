"""The daemon's SQLite file: opened, checked and migrated; what goes wrong with it is one clear error."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from reheatd.errors import ReheatdError
from reheatd.files import is_of_disk
from reheatd.migrations import SCHEMA_VERSION, is_empty, migrate, schema_version

logger = logging.getLogger(__name__)

Record = TypeVar("Record", bound=BaseModel)
Value = TypeVar("Value")

IDS_AT_ONCE = 1000
ROWS_AT_ONCE = 50
"""Rows that are read before other tasks have their turn."""


class StateError(ReheatdError):
    """The daemon's state cannot be read or written: its disk is full, read-only or damaged.

    What to do: Make room on the disk of the data folder, or make it writable; the daemon goes on by itself. If the
    database is damaged, restore a back-up (`reheatd restore`).
    """

    code = "state_unusable"
    status = 507
    exit_code = 2


class StateTooNewError(StateError):
    """The state was written by a newer version of reheatd.

    What to do: Install the newer version of reheatd again, or restore a back-up that this version wrote.
    """

    code = "state_too_new"


class StateConnection(sqlite3.Connection):
    """A connection that reports what SQLite cannot do as a `StateError`; nothing of a failed transaction is stored."""

    file = Path()

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*arguments)
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    def executescript(self, *arguments: Any) -> sqlite3.Cursor:
        try:
            return super().executescript(*arguments)
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    def __exit__(self, *error: Any) -> Literal[False]:
        try:
            return super().__exit__(*error)
        except sqlite3.DatabaseError as failed:
            raise self._explained(failed) from failed

    def _explained(self, error: sqlite3.DatabaseError) -> Exception:
        # A wrong statement is a bug, and shows as one.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        return error if code in _BUGS else StateError(_explanation(self.file, code, error))


@contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """Makes a `StateError` of an error of the disk that holds `folder`; other errors pass through.

    Raises:
        StateError: The disk is full, broken or read-only, or this user may not write to the folder.
    """
    try:
        yield
    except PermissionError as error:
        if isinstance(error, ReheatdError):
            raise
        raise StateError(_of_disk(error, folder, "let this user read and write there")) from error
    except OSError as error:
        if isinstance(error, ReheatdError) or not is_of_disk(error):
            raise
        raise StateError(_of_disk(error, folder, "free or repair the disk")) from error


def _of_disk(error: OSError, folder: Path, way_out: str) -> str:
    return f"{error.filename or folder} cannot be used: {error.strerror}; {way_out}"


def connect(path: Path) -> sqlite3.Connection:
    """Opens or creates the database; every commit is durable, and rows are addressed by column name.

    A new one can be read by its owner alone.

    All parts of the daemon share one connection; each module creates its own tables. A database of an earlier version
    of reheatd is migrated, and a copy of it is kept beside it.

    Raises:
        StateError: The file is damaged, or cannot be written; the message says what to do.
        StateTooNewError: A newer version of reheatd wrote it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"{path.parent} cannot be made: {error.strerror}; name another folder with --data-dir"
        ) from error
    if path.exists() and path.stat().st_size == 0 and any(path.parent.glob("adapters/policy-v*")):
        raise StateError(_damaged(path, "it is empty, but there are versions of adapters"))
    try:
        # SQLite gives its other files the rights of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(path, factory=StateConnection)
    except (OSError, sqlite3.DatabaseError) as error:
        raise StateError(_explanation(path, sqlite3.SQLITE_CANTOPEN, error)) from error
    try:
        db.file = path
        db.row_factory = sqlite3.Row
        _check(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        _bring_up_to_date(db, path)
    except BaseException:
        db.close()
        raise
    return db


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Opens a daemon's database in another process or thread, for reading alone; the daemon never waits for that.

    It may be used by several threads, one after the other.

    Raises:
        StateError: It cannot be opened.
    """
    try:
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, factory=StateConnection, check_same_thread=False
        )
    except sqlite3.DatabaseError as error:
        raise StateError(_explanation(path, sqlite3.SQLITE_CANTOPEN, error)) from error
    db.file = path
    db.row_factory = sqlite3.Row
    return db


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of its own that only reads, for a thread beside the one that the daemon's connection belongs to.

    Raises:
        StateError: The file cannot be read; so do the connection's queries.
    """
    with closing(connect_to_read(path)) as db:
        yield db


@dataclass(frozen=True)
class Rows:
    """Some rows of a table, the newest first."""

    rows: list[sqlite3.Row]
    newer: bool
    """Whether there may be newer ones."""
    older: bool
    """Whether there are older ones."""


def page_of_rows(
    db: sqlite3.Connection,
    select: str,
    conditions: Mapping[str, Any],
    *,
    key: str,
    before: int | None,
    after: int | None,
    count: int,
) -> Rows:
    """A page of the rows that `select` gives, newest first.

    Args:
        select: A query without conditions.
        conditions: SQL conditions that all hold, with the value in each.
        key: The column by which rows are in order.
        before: Only rows before this one; None begins with the newest.
        after: Only rows after this one, the oldest of them; takes the place of `before`.
        count: Rows of a page.
    """
    forward = after is not None
    edge = {f"{key} > ?": after} if forward else {} if before is None else {f"{key} < ?": before}
    every = {**conditions, **edge}
    rows = db.execute(
        f"{select} WHERE {' AND '.join(every) or 'TRUE'} ORDER BY {key} {'ASC' if forward else 'DESC'} LIMIT ?",
        (*every.values(), count + 1),
    ).fetchall()
    more, kept = len(rows) > count, rows[:count]
    if forward:
        return Rows(kept[::-1], newer=more, older=True)
    return Rows(kept, newer=before is not None, older=more)


def copy_database(source: Path, target: Path) -> None:
    """Copies a database as it is at one moment, also while another process or thread writes to it.

    Raises:
        OSError, sqlite3.Error: It cannot be read, or the copy cannot be written.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT, 0o600))
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)
        # A copy is one file, complete without a log beside it.
        other.execute("PRAGMA journal_mode = DELETE")


def readable(record: type[Record], rows: Iterable[sqlite3.Row], *, column: str, key: str) -> list[Record]:
    """The records in `column` of the rows. One that cannot be read is left out and logged, and costs no other.

    Args:
        key: Column that names the row in the log.
    """
    found: list[Record] = []
    for row in rows:
        try:
            found.append(record.model_validate_json(row[column]))
        except ValidationError as error:
            logger.error("%s %s in the database cannot be read: %s", record.__name__, row[key], first_line(error))
    return found


async def newest(
    db: sqlite3.Connection, table: str, column: str, count: int, *, where: str = "TRUE", values: tuple[Any, ...] = ()
) -> AsyncIterator[list[str]]:
    """The JSON in `column` of the newest `count` rows of a table, oldest first, some rows at a time.

    Other tasks run in between, so a long series stops no stream. Rows that hold no JSON are left out.

    Args:
        table: Has a column `id` that grows.
        where: Condition on a row, with `values` in it; it needs an index that ends with `id`.
    """
    first = end = db.execute(f"SELECT COALESCE(MAX(id), 0) + 1 AS id FROM {table}").fetchone()["id"]
    left = count
    while left:
        ids = db.execute(
            f"SELECT id FROM {table} WHERE {where} AND id < ? ORDER BY id DESC LIMIT ?",
            (*values, first, min(left, IDS_AT_ONCE)),
        ).fetchall()
        if not ids:
            break
        first, left = ids[-1]["id"], left - len(ids)
        await asyncio.sleep(0)
    while first < end:
        rows = db.execute(
            f'SELECT id, CASE WHEN json_valid("{column}") THEN "{column}" END AS text FROM {table} '
            f"WHERE {where} AND id >= ? AND id < ? ORDER BY id LIMIT ?",
            (*values, first, end, ROWS_AT_ONCE),
        ).fetchall()
        if not rows:
            return
        first = rows[-1]["id"] + 1
        yield [row["text"] for row in rows if row["text"] is not None]
        await asyncio.sleep(0)


async def in_parts(values: Iterable[Value], size: int) -> AsyncIterator[list[Value]]:
    """The values in lists of `size`; they are made as they are asked for, and other tasks run in between."""
    source = iter(values)
    while part := list(islice(source, size)):
        yield part
        await asyncio.sleep(0)


def first_line(error: ValidationError) -> str:
    """What is wrong with a record, in one line without its values."""
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'record'}: {problem['msg']}"


def _check(db: sqlite3.Connection, path: Path) -> None:
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StateError(_damaged(path, " ".join(found.split())))


def _bring_up_to_date(db: sqlite3.Connection, path: Path) -> None:
    version = schema_version(db)
    if version > SCHEMA_VERSION:
        raise StateTooNewError(
            f"{path} was written by a newer reheatd (schema {version}; this one knows up to {SCHEMA_VERSION}); install "
            "that version, or restore a back-up of this one with `reheatd restore`"
        )
    if version == SCHEMA_VERSION:
        return
    if not is_empty(db):
        kept = path.with_name(f"{path.stem}-schema-{version}{path.suffix}")
        try:
            copy_database(path, kept)
        except (OSError, sqlite3.DatabaseError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CANTOPEN) & 0xFF
            raise StateError(_explanation(kept, code, error)) from error
        logger.info("%s is migrated from schema %d to %d; %s is a copy", path, version, SCHEMA_VERSION, kept)
    migrate(db)


_BUGS = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_MISUSE}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _explanation(path: Path, code: int, error: OSError | sqlite3.DatabaseError) -> str:
    if code in _DAMAGE:
        return _damaged(path, str(error))
    why = error.strerror if isinstance(error, OSError) else error
    return f"{path} cannot be read or written ({why}); free or repair the disk, and let this user write to the folder"


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path} is damaged ({why}); restore a back-up with `reheatd restore`, or move the file away: versions of "
        "adapters are then added again from their folders, but jobs, entropy windows and what was promoted are lost"
    )
