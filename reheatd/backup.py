"""Back-up of a data folder while its daemon serves, and restoration into a new folder.

A back-up is a tar file. It holds a copy of the database as it was at one moment, the versions of adapters that this
copy names, and the other files from which a daemon goes on: those of jobs that are not over, curves and rollouts of
those that are. Its last entry, `manifest.json`, has the digest of every file. What a start makes anew is left out:
logs, uploads and the broker's files.
"""

import hashlib
import io
import json
import os
import shutil
import sqlite3
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from reheatd.adapters.archive import unpack
from reheatd.database import StateError, connect, copy_database
from reheatd.errors import BadInputError, ConflictError, ReheatdError
from reheatd.files import fsync
from reheatd.jobs.contracts import JobStatus
from reheatd.measures import Contract

FORMAT = 1
MANIFEST = "manifest.json"
DATABASE = "reheatd.sqlite3"
LEFT_OUT = ("broker", "logs", "runs", "uploads", "daemon.json", "daemon.lock")
"""What a start makes anew, and the files of trackers, by their names in the data folder."""
JOB_FILES = (".jsonl", ".json", ".md")
"""Endings of the files that are kept of a job that is over; its adapter is among the versions."""
OVER = {status.value for status in JobStatus if status.is_final}
TRIES = 5
"""How often a back-up is begun again because a version was deleted meanwhile."""
MAX_MEMBERS = 10_000_000
SCRATCH = ".restore.tmp"


class BackupError(ReheatdError):
    """A back-up cannot be written, or a file is no intact back-up.

    What to do: Check that the data folder holds a state and that the target's disk has room. A damaged back-up
    cannot be restored: take another one.
    """

    code = "backup_failed"
    exit_code = 2


class FileEntry(Contract):
    """One file of a back-up."""

    sha256: str
    mode: int
    """Permission bits."""


class Manifest(Contract):
    """What a back-up holds."""

    format: int = FORMAT
    created_at: float = Field(default_factory=time.time)
    """Seconds since the epoch."""
    data_dir: Path
    """The folder that was backed up."""
    versions: list[int]
    """Numbers of the versions of adapters whose files are in the back-up."""
    promoted: int
    files: dict[str, FileEntry]


class _Changed(Exception):
    """A version was deleted while it was being backed up."""


def back_up(data_dir: Path, target: Path) -> Manifest:
    """Writes a back-up of `data_dir` to `target`, which appears whole or not at all; a daemon may serve meanwhile.

    Raises:
        BackupError: The folder has no database, or something cannot be read or written.
    """
    if not (data_dir / DATABASE).is_file():
        raise BackupError(f"{data_dir} has no {DATABASE}; name the daemon's folder with --data-dir")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.absolute().parent) as scratch:
            made, snapshot = Path(scratch) / target.name, Path(scratch) / DATABASE
            for _ in range(TRIES):
                copy_database(data_dir / DATABASE, snapshot)
                try:
                    manifest = _write(data_dir.resolve(), snapshot, made)
                except _Changed:
                    continue
                made.replace(target)
                fsync(target.absolute().parent)
                return manifest
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BackupError(f"the back-up {target} cannot be written: {why}; free space, or name another file") from error
    raise BackupError(f"versions were deleted {TRIES} times while {data_dir} was being backed up; try again later")


def restore(archive: Path, data_dir: Path) -> Manifest:
    """Makes `data_dir` from a back-up, after every file was compared with its digest.

    Raises:
        ConflictError: The folder is not empty, so a daemon may use it.
        BackupError: The file is no intact back-up, or the folder cannot be written.
    """
    _check_unused(data_dir)
    scratch = data_dir / SCRATCH
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        with archive.open("rb") as stream:
            unpack(stream, scratch, max_bytes=shutil.disk_usage(data_dir).free, max_members=MAX_MEMBERS)
        manifest = _checked(scratch, archive)
        _move_paths(scratch / DATABASE, manifest.data_dir, data_dir.resolve())
        (scratch / MANIFEST).unlink()
        for path in scratch.rglob("*"):
            fsync(path)
        # The database comes last: without it, a folder is no daemon's, and a restoration that was cut off shows.
        for path in sorted(scratch.iterdir(), key=lambda path: path.name == DATABASE):
            path.rename(data_dir / path.name)
        scratch.rmdir()
        fsync(data_dir)
        return manifest
    except OSError as error:
        raise BackupError(
            f"{archive} cannot be restored to {data_dir}: {error.strerror or error}; empty the folder and try again"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(data_dir: Path, snapshot: Path, target: Path) -> Manifest:
    with closing(sqlite3.connect(snapshot)) as db:
        db.row_factory = sqlite3.Row
        versions = {row["folder"]: row["version"] for row in _rows(db, "adapter_versions") if row["folder"]}
        promotions = _rows(db, "adapter_promotions")
        over = {row["job_id"] for row in _rows(db, "jobs") if row["status"] in OVER}
    files: dict[str, FileEntry] = {}
    kept: list[int] = []
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            files[DATABASE] = _add(tar, snapshot, DATABASE)
            for folder, version in versions.items():
                if _has_version(data_dir, folder):
                    kept.append(version)
                    found = list(_files(data_dir / "adapters" / folder))
                    if not found:
                        raise _Changed
                    for file in found:
                        _add_if_there(tar, file, data_dir, files, missing=_Changed)
            for file in _other_files(data_dir, over):
                _add_if_there(tar, file, data_dir, files, missing=None)
            manifest = Manifest(
                data_dir=data_dir,
                versions=sorted(kept),
                promoted=promotions[-1]["version"] if promotions else 0,
                files=files,
            )
            content = manifest.model_dump_json().encode()
            info = tarfile.TarInfo(MANIFEST)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        stream.flush()
        os.fsync(stream.fileno())
    return manifest


def _rows(db: sqlite3.Connection, table: str) -> list[sqlite3.Row]:
    """The rows of a table, which the daemon may not have made yet."""
    is_there = db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    return db.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() if is_there else []


def _has_version(data_dir: Path, folder: str) -> bool:
    """Whether a version's files are there; they are not if the version is lost.

    Raises:
        _Changed: The version was deleted since the snapshot.
    """
    if (data_dir / "adapters" / folder).is_dir():
        return True
    with closing(sqlite3.connect(data_dir / DATABASE)) as db:
        if db.execute("SELECT 1 FROM adapter_versions WHERE folder = ?", (folder,)).fetchone() is None:
            raise _Changed
    return False


def _other_files(data_dir: Path, over: set[str]) -> Iterator[Path]:
    for path in sorted(data_dir.iterdir()):
        if path.name in LEFT_OUT or path.name == "adapters" or path.name.startswith(("reheatd.sqlite3", ".")):
            continue
        if path.name == "jobs":
            for job in sorted(path.iterdir()):
                yield from (file for file in _files(job) if job.name not in over or file.suffix in JOB_FILES)
        else:
            yield from _files(path)


def _files(path: Path) -> Iterator[Path]:
    """The regular files under a path, links resolved; no half-written ones and no rollout adapters."""
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            if not entry.name.startswith((".", "rollout-")) and not entry.name.endswith(".tmp"):
                yield from _files(entry)
    elif path.is_file():
        yield path


def _add_if_there(
    tar: tarfile.TarFile, file: Path, data_dir: Path, files: dict[str, FileEntry], *, missing: type[Exception] | None
) -> None:
    name = file.relative_to(data_dir).as_posix()
    try:
        files[name] = _add(tar, file, name)
    except FileNotFoundError:
        if missing is not None:
            raise missing from None


def _add(tar: tarfile.TarFile, file: Path, name: str) -> FileEntry:
    """Adds what a file holds at this moment; what is appended meanwhile is left out."""
    with file.open("rb") as handle:
        found = os.fstat(handle.fileno())
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = found.st_size, stat.S_IMODE(found.st_mode), int(found.st_mtime)
        reader = _Hashing(handle)
        tar.addfile(info, reader)  # pyright: ignore[reportArgumentType]
        return FileEntry(sha256=reader.digest.hexdigest(), mode=info.mode)


class _Hashing:
    """A file that computes the digest of what is read from it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        block: bytes = self._handle.read(size)
        self.digest.update(block)
        return block


def _check_unused(folder: Path) -> None:
    try:
        names = [path.name for path in folder.iterdir() if path.name != SCRATCH] if folder.exists() else []
    except OSError as error:
        raise BadInputError(f"{folder} is no folder that can be read: {error.strerror}", param="data-dir") from error
    if names:
        raise ConflictError(
            f"{folder} is not empty, so a daemon may use it; stop that daemon and move the folder away, or name a new "
            "one with --data-dir"
        )


def _checked(folder: Path, archive: Path) -> Manifest:
    """The manifest of an unpacked back-up whose files are all as they were written.

    Raises:
        BackupError: They are not; the message names the first that differs.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        values = json.loads(content)
        if isinstance(values, dict) and values.get("format", 0) > FORMAT:
            raise BackupError(f"{archive} was written by a newer reheatd; restore it with that version")
        manifest = Manifest.model_validate(values)
    except FileNotFoundError:
        raise BackupError(f"{archive} has no {MANIFEST} at its end: it is cut off, or no back-up of reheatd") from None
    except (ValidationError, ValueError, TypeError) as error:
        raise BackupError(f"{archive} is no intact back-up: its {MANIFEST} is damaged; take another one") from error
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    different = sorted(found ^ manifest.files.keys())
    for name, entry in manifest.files.items():
        if name in found:
            with (folder / name).open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != entry.sha256:
                    different.append(name)
            (folder / name).chmod(entry.mode)
    if different:
        raise BackupError(f"{archive} is damaged: {different[0]} is not as it was backed up; take another back-up")
    return manifest


def _move_paths(database: Path, old: Path, new: Path) -> None:
    """Makes the paths in the records of jobs name the new data folder, so that a job that was running goes on there.

    Raises:
        BackupError: The database is damaged.
    """
    try:
        with closing(connect(database)) as db, db:
            for row in _rows(db, "jobs"):
                try:
                    record = json.loads(row["record"])
                except ValueError:  # it was damaged before, and takes no other with it
                    continue
                moved = json.dumps(_moved(record, f"{old}/", f"{new}/"))
                db.execute("UPDATE jobs SET record = ? WHERE job_id = ?", (moved, row["job_id"]))
    except StateError as error:
        raise BackupError(f"the back-up's database cannot be used: {error.message}") from error


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {name: _moved(each, old, new) for name, each in value.items()}
    if isinstance(value, list):
        return [_moved(each, old, new) for each in value]
    return new + value.removeprefix(old) if isinstance(value, str) and value.startswith(old) else value
