"""Immutable adapter versions on disk, and which of them is promoted.

A version is a folder `policy-vN-<digest>` with weights, configuration, lineage and its job's report; one that RL made
has Adam's moments, too. The folder is complete from the moment it has its name. A version's number is never used again,
even if the version is deleted.
"""

import asyncio
import hashlib
import json
import logging
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from reheatd.adapters.lineage import LINEAGE_FORMAT, Lineage
from reheatd.adapters.validate import CONFIG_FILE, WEIGHTS_FILE
from reheatd.database import StateError, StateTooNewError, disk_explained
from reheatd.errors import AdapterInvalidError, ConflictError, FilesUnreadableError, NotFoundError
from reheatd.files import folder_bytes, publish_folder
from reheatd.names import parse_version_name, version_name

log = logging.getLogger(__name__)

LINEAGE_FILE = "lineage.json"
MOMENTS_FILE = "adam_moments.safetensors"
"""Adam's moments at the end of the job of RL that made a version. The digest does not cover them, and nobody but the
next job of RL needs them."""
REPORT_FOLDER = "report"
VersionState = Literal["candidate", "promoted", "retired", "rejected", "lost"]
"""`lost` means that the files of a version are gone or damaged, so that it can only be deleted."""

TABLES = """
CREATE TABLE IF NOT EXISTS adapter_versions (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    folder TEXT NOT NULL,
    state TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS adapter_promotions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    version INTEGER NOT NULL
);
"""


class VersionInfo(BaseModel):
    """A version as it is listed. Version 0, which is the bare base model, and lost versions have no lineage."""

    model_config = ConfigDict(extra="forbid")

    version: int
    name: str
    state: VersionState
    lineage: Lineage | None


class _Stamp(NamedTuple):
    """What changes when a file is replaced or written."""

    inode: int
    size: int
    mtime_ns: int


class AdapterStore:
    """The versions under `folder`. Their numbers, states and promotions are in the daemon's database."""

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        self._folder = folder
        self._db = db
        folder.mkdir(parents=True, exist_ok=True)
        self._lineages: dict[str, tuple[_Stamp, Lineage]] = {}
        """Lineages that were read, by folder: they are long, and streams wait while one is read."""
        with db:
            db.executescript(TABLES)
        self._remove_leftovers()
        self._refuse_newer()

    async def publish(self, source: Path, report: Path | None = None, **lineage: Any) -> Lineage:
        """Copies the adapter in `source` into a new version, in a thread, and returns the version's lineage.

        Args:
            report: Folder of the job's report, which becomes `report/`; the digest does not cover it.
            lineage: Fields of `Lineage` except `version` and `digest`, which are set here.

        Raises:
            StateError: The disk is full or read-only; nothing of the version is left, and its number is free again.
            OSError: The source cannot be read; likewise.
        """
        digest = await asyncio.to_thread(content_digest, source)
        with self._db:
            row = self._db.execute("INSERT INTO adapter_versions (folder, state) VALUES ('', 'candidate')")
            version = int(row.lastrowid or 0)
        record = Lineage(version=version, digest=digest, **lineage)
        final = self._folder / f"{version_name(version)}-{digest[:12]}"
        try:
            with disk_explained(self._folder):
                await asyncio.to_thread(_publish, source, report, record, final)
            with self._db:
                self._db.execute("UPDATE adapter_versions SET folder = ? WHERE version = ?", (final.name, version))
        except Exception:
            await asyncio.to_thread(shutil.rmtree, final, ignore_errors=True)
            self._withdraw(version)
            raise
        return record

    def _withdraw(self, version: int) -> None:
        """Takes back a number that nobody has seen, so that trying again does not use up one each time."""
        try:
            with self._db:
                self._db.execute("DELETE FROM adapter_versions WHERE version = ?", (version,))
                self._db.execute(
                    "UPDATE sqlite_sequence SET seq = ? WHERE name = 'adapter_versions' AND seq = ?",
                    (version - 1, version),
                )
        except StateError as error:
            log.warning("the number %d stays unused: %s", version, error)

    def get(self, version: int) -> VersionInfo:
        """A version as it is listed.

        Raises:
            NotFoundError: There is no such version.
        """
        if version == 0:
            return VersionInfo(version=0, name=version_name(0), state=self._base_state(), lineage=None)
        row, name = self._row(version), version_name(version)
        try:
            lineage = self._lineage(row["folder"])
        except (OSError, ValidationError):  # one version that is gone must not take the others with it
            return VersionInfo(version=version, name=name, state="lost", lineage=None)
        return VersionInfo(version=version, name=name, state=row["state"], lineage=lineage)

    def version_in(self, folder: str) -> int | None:
        """The version whose folder has this name, e.g. policy-v3-4bf0c1d27a9e; None if there is none."""
        row = self._db.execute("SELECT version FROM adapter_versions WHERE folder = ?", (folder,)).fetchone()
        return None if row is None or not folder else row["version"]

    def path(self, version: int) -> Path:
        """The folder of a version >= 1.

        Raises:
            NotFoundError: There is no such version.
        """
        return (self._folder / self._row(version)["folder"]).resolve()

    def report_path(self, version: int) -> Path | None:
        """The folder with the report of the job that made a version; None if there is no report, as for the base."""
        folder = self.path(version) / REPORT_FOLDER if version else None
        return folder if folder is not None and folder.is_dir() else None

    def disk_bytes(self, version: int) -> int:
        """The size of a version's files, in bytes; 0 for the base.

        Raises:
            NotFoundError: There is no such version.
        """
        return folder_bytes(self.path(version)) if version else 0

    def versions(self) -> list[int]:
        """The numbers of all versions, with the base's 0 first."""
        rows = self._db.execute("SELECT version FROM adapter_versions WHERE folder != '' ORDER BY version").fetchall()
        return [0, *(row["version"] for row in rows)]

    def list(self) -> list[VersionInfo]:
        """All versions, with the base first."""
        rows = self._db.execute("SELECT version FROM adapter_versions WHERE folder != '' ORDER BY version").fetchall()
        return [self.get(0), *(self.get(row["version"]) for row in rows)]

    def set_state(self, version: int, state: VersionState) -> None:
        if version:
            self._row(version)
            with self._db:
                self._db.execute("UPDATE adapter_versions SET state = ? WHERE version = ?", (state, version))

    def promoted(self) -> int:
        """The version that the alias means; 0 until a version was promoted."""
        row = self._db.execute("SELECT version FROM adapter_promotions ORDER BY id DESC LIMIT 1").fetchone()
        return 0 if row is None else row["version"]

    def previous(self) -> int | None:
        """The version that a roll-back goes to: the one promoted before the present one, if it still can serve.

        Promoting a version that was promoted earlier takes back what was promoted since. So each roll-back goes further
        back, and none returns to a version that was just left. The base counts as promoted before the first promotion.

        Returns:
            None if there is no such version.
        """
        trail = [0]
        for row in self._db.execute("SELECT version FROM adapter_promotions ORDER BY id"):
            version: int = row["version"]
            if version in trail:
                del trail[trail.index(version) :]
            trail.append(version)
        known = set(self.versions())
        earlier = (version for version in reversed(trail[:-1]) if version in known)
        return next((version for version in earlier if self.get(version).state not in ("rejected", "lost")), None)

    def promote(self, version: int) -> None:
        """Records, in one transaction, that the alias means `version` from now on."""
        if version:
            self._row(version)
        with self._db:
            self._db.execute("UPDATE adapter_versions SET state = 'retired' WHERE state = 'promoted'")
            self._db.execute("UPDATE adapter_versions SET state = 'promoted' WHERE version = ?", (version,))
            self._db.execute("INSERT INTO adapter_promotions (time, version) VALUES (?, ?)", (time.time(), version))

    async def intact_path(self, version: int) -> Path:
        """The folder of a version >= 1, after its files were compared with the digest of their publication.

        Raises:
            NotFoundError: There is no such version.
            AdapterInvalidError: The version's files are gone or were changed.
            FilesUnreadableError: They cannot be read now, for a reason that may pass.
        """
        folder = self.path(version)
        try:
            lineage = self.get(version).lineage
            digest = await asyncio.to_thread(content_digest, folder)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise AdapterInvalidError(
                f"{version_name(version)} cannot be read from {folder}: {error.strerror}; promote another version"
            ) from error
        except OSError as error:
            raise FilesUnreadableError(
                f"{version_name(version)} cannot be read from {folder} at the moment: {error.strerror}; try again later"
            ) from error
        if lineage is None or digest != lineage.digest:
            raise AdapterInvalidError(
                f"the files of {version_name(version)} in {folder} are not those that were published; "
                "promote another version"
            )
        return folder

    def delete(self, version: int) -> None:
        """Deletes the files of a version that is not promoted and that no engine has loaded any more.

        Raises:
            ConflictError: The version is promoted, or it is the base.
        """
        if version == 0 or version == self.promoted():
            raise ConflictError(f"{version_name(version)} is being served; promote another version first")
        folder = self.path(version)
        self._lineages.pop(folder.name, None)
        with self._db:
            self._db.execute("DELETE FROM adapter_versions WHERE version = ?", (version,))
        if folder.exists():
            # A back-up that is being written finds a version's folder whole or not at all.
            doomed = self._folder / f".{folder.name}.deleted.tmp"
            folder.rename(doomed)
            shutil.rmtree(doomed)

    def _lineage(self, folder: str) -> Lineage:
        """The lineage of the version in a folder, which is read again only if the file was replaced or changed.

        Raises:
            OSError, ValidationError: The file is gone or damaged.
        """
        file = self._folder / folder / LINEAGE_FILE
        found = file.stat()
        stamp = _Stamp(found.st_ino, found.st_size, found.st_mtime_ns)
        known = self._lineages.get(folder)
        if known is None or known[0] != stamp:
            known = self._lineages[folder] = stamp, Lineage.model_validate_json(file.read_bytes())
        return known[1]

    def _refuse_newer(self) -> None:
        """Checks that no version was made by a newer reheatd: it would seem lost, and somebody might delete it.

        Raises:
            StateTooNewError: One was.
        """
        for row in self._db.execute("SELECT folder FROM adapter_versions WHERE folder != ''"):
            file = self._folder / row["folder"] / LINEAGE_FILE
            try:
                values = json.loads(file.read_bytes())
            except (OSError, ValueError):  # it is lost, which a listing says
                continue
            written = values.get("format", 1) if isinstance(values, dict) else 1
            if isinstance(written, int) and written > LINEAGE_FORMAT:
                raise StateTooNewError(
                    f"{file} was written by a newer reheatd (format {written}; this one knows up to {LINEAGE_FORMAT}); "
                    "install that version, or restore a back-up of this one with `reheatd restore`"
                )

    def _base_state(self) -> VersionState:
        return "promoted" if self.promoted() == 0 else "retired"

    def _row(self, version: int) -> sqlite3.Row:
        row = None
        if abs(version) < 1 << 63:  # SQLite's limit
            row = self._db.execute(
                "SELECT * FROM adapter_versions WHERE version = ? AND folder != ''", (version,)
            ).fetchone()
        if row is None:
            known = ", ".join(version_name(number) for number in self.versions())
            raise NotFoundError(f"version {version} does not exist; there are {known}", param="version")
        return row

    def _remove_leftovers(self) -> None:
        """Removes what a crash while publishing or deleting has left.

        That may be a scratch folder, a folder without a record or a record without a folder. A folder whose number was
        never given out is no leftover: its record was in a database that was lost, so it gets a record again.
        """
        for scratch in self._folder.glob(".*.tmp"):
            shutil.rmtree(scratch)
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'adapter_versions'").fetchone()
        last_given = 0 if row is None else row["seq"]
        known = {row["folder"] for row in self._db.execute("SELECT folder FROM adapter_versions")}
        for folder in sorted(self._folder.glob("policy-v*")):
            version = parse_version_name(folder.name.rpartition("-")[0])
            if version is None or folder.name in known:
                continue
            if version <= last_given:
                shutil.rmtree(folder)
                continue
            log.warning("%s is not in the database; it is added as a retired version", folder.name)
            with self._db:
                self._db.execute("INSERT INTO adapter_versions VALUES (?, ?, 'retired')", (version, folder.name))
        for row in self._db.execute("SELECT version, folder FROM adapter_versions").fetchall():
            if not (row["folder"] and (self._folder / row["folder"] / LINEAGE_FILE).is_file()):
                if row["folder"]:
                    log.error("%s is gone from %s; its version is removed", row["folder"], self._folder)
                with self._db:
                    self._db.execute("DELETE FROM adapter_versions WHERE version = ?", (row["version"],))


def _publish(source: Path, report: Path | None, record: Lineage, final: Path) -> None:
    with publish_folder(final) as scratch:
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            shutil.copyfile(source / name, scratch / name)
        if (source / MOMENTS_FILE).exists():
            shutil.copyfile(source / MOMENTS_FILE, scratch / MOMENTS_FILE)
        (scratch / LINEAGE_FILE).write_text(record.model_dump_json(indent=2))
        if report is not None:
            shutil.copytree(report, scratch / REPORT_FOLDER)


def content_digest(folder: Path) -> str:
    """SHA-256 over an adapter's weights and configuration."""
    digest = hashlib.sha256()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        with (folder / name).open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
