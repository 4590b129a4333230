"""Back-ups that are taken while the daemon's parts change, and what a daemon finds after a restoration."""

import asyncio
import json
import shutil
import tarfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reheatd.adapters.store import AdapterStore, content_digest
from reheatd.backup import BackupError, back_up, restore
from reheatd.control.ledger import Ledger
from reheatd.database import connect
from reheatd.errors import ArchiveInvalidError, ConflictError
from reheatd.jobs.attempts import begin_attempt
from reheatd.jobs.contracts import JobEvent, JobStatus, ReheatSpec
from tests.limited_disk import full_disk
from tests.unit.control_support import REHEAT, World, finish_one, live
from tests.unit.test_adapters_store import FIELDS, publish, source


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "reheatd.tar"


@pytest.fixture(autouse=True)
def folder_of_backups(archive: Path) -> None:
    archive.parent.mkdir()


def open_store(folder: Path) -> AdapterStore:
    return AdapterStore(folder / "adapters", connect(folder / "reheatd.sqlite3"))


def test_a_backup_under_changes_holds_what_was_promoted_at_one_moment(
    data_dir: Path, archive: Path, tmp_path: Path
) -> None:
    store = open_store(data_dir)
    store.promote(publish(store, tmp_path, "first"))
    done, begun = threading.Event(), threading.Event()

    def change() -> None:
        mine = open_store(data_dir)
        for number in range(1000):
            version = asyncio.run(mine.publish(source(tmp_path, f"c{number % 3}"), **FIELDS)).version
            mine.promote(version)
            if version > 3:
                mine.delete(version - 2)
            if number > 2:
                begun.set()
            if done.is_set():
                break

    changing = threading.Thread(target=change)
    changing.start()
    try:
        begun.wait()
        manifests = [back_up(data_dir, archive) for _ in range(3)]
    finally:
        done.set()
        changing.join()
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]
    manifest = restore(archive, tmp_path / "new")
    assert manifest == manifests[-1] and manifest.promoted in manifest.versions
    found = open_store(tmp_path / "new")
    assert found.promoted() == manifest.promoted
    assert found.versions() == [0, *manifest.versions]
    for version in manifest.versions:
        assert asyncio.run(found.intact_path(version)).is_dir()


def test_a_daemon_goes_on_from_a_restored_folder(tmp_path: Path, archive: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    running: list[str] = []

    async def story(world: World) -> None:
        await finish_one(world)
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted(2)
        await world.dispatcher.report(job.job_id, JobEvent(kind="started"))
        await world.until(lambda: world.controller.job(job.job_id).started_at)
        (begin_attempt(spec, 1).output_dir / "checkpoint.pt").write_bytes(b"half way")
        (spec.output_dir / "attempt-1" / "rollout-3").mkdir()
        (old / "keys.json").write_text("secret")
        (old / "keys.json").chmod(0o600)
        (old / "logs").mkdir()
        (old / "logs" / "engine.log").write_text("long")
        running.append(job.job_id)
        await asyncio.to_thread(back_up, old, archive)
        assert archive.stat().st_mode & 0o077 == 0

    live(World(old), story)
    shutil.rmtree(old)
    manifest = restore(archive, new)
    assert (manifest.promoted, manifest.versions) == (1, [1])
    assert not (new / "logs").exists() and not [*new.rglob("rollout-*")]
    assert (new / "keys.json").stat().st_mode & 0o777 == 0o600

    async def afterwards(world: World) -> None:
        assert world.swaps.promoted == 1
        assert [job.status for job in world.ledger.jobs.all()] == [JobStatus.SUCCEEDED, JobStatus.RUNNING]
        spec = world.ledger.jobs.get(running[0]).spec
        assert isinstance(spec, ReheatSpec) and spec.output_dir == (new / "jobs" / running[0]).resolve()
        assert (spec.output_dir / "attempt-1" / "checkpoint.pt").read_bytes() == b"half way"
        await world.dispatcher.report(running[0], JobEvent(kind="succeeded", result=world.result(spec)))
        await world.until_status(running[0], JobStatus.SUCCEEDED)
        assert world.swaps.promoted == 2

    class Restored(World):
        def _build(self) -> None:
            super()._build()
            self.dispatcher._streams[running[0]] = [JobEvent(kind="started")]

    live(Restored(new), afterwards)


def test_a_lost_version_is_left_out(data_dir: Path, archive: Path, tmp_path: Path) -> None:
    store = open_store(data_dir)
    for content in "ab":
        publish(store, tmp_path, content)
    shutil.rmtree(store.path(1))
    assert back_up(data_dir, archive).versions == [2]


def test_a_folder_in_use_is_not_restored_to(data_dir: Path, archive: Path, tmp_path: Path) -> None:
    publish(open_store(data_dir), tmp_path, "a")
    back_up(data_dir, archive)
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    with pytest.raises(ConflictError, match=r"is not empty, so a daemon may use it"):
        restore(archive, data_dir)
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before
    with pytest.raises(BackupError, match=r"has no reheatd\.sqlite3; name the daemon's folder"):
        back_up(tmp_path / "nowhere", archive)


@pytest.mark.parametrize("damage", ["cut off", "changed", "a link", "no manifest", "newer"])
def test_a_damaged_backup_restores_nothing(damage: str, data_dir: Path, archive: Path, tmp_path: Path) -> None:
    publish(open_store(data_dir), tmp_path, "a")
    back_up(data_dir, archive)
    content = archive.read_bytes()
    if damage == "cut off":
        archive.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        archive.write_bytes(content.replace(b'"base_model": "tiny"', b'"base_model": "Tiny"'))
    else:
        _rewrite(archive, damage)
    target = tmp_path / "new"
    with pytest.raises((BackupError, ArchiveInvalidError)) as caught:
        restore(archive, target)
    assert "\n" not in str(caught.value)
    assert not [*target.iterdir()]
    archive.write_bytes(content)
    restore(archive, target)
    assert content_digest(open_store(target).path(1)) == content_digest(tmp_path / "trained-a")


def _rewrite(archive: Path, damage: str) -> None:
    scratch = archive.with_suffix(".new")
    with tarfile.open(archive) as old, tarfile.open(scratch, "w") as new:
        for member in old.getmembers():
            stream: Any = old.extractfile(member)
            if member.name == "manifest.json":
                if damage == "no manifest":
                    continue
                values = json.loads(stream.read())
                raw = archive.with_suffix(".json")
                raw.write_text(json.dumps(values | ({"format": 9} if damage == "newer" else {})))
                new.add(raw, "manifest.json")
            else:
                new.addfile(member, stream)
        if damage == "a link":
            link = tarfile.TarInfo("adapters/link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            new.addfile(link)
    scratch.replace(archive)


def test_a_backup_that_does_not_fit_leaves_the_one_before(data_dir: Path, archive: Path, tmp_path: Path) -> None:
    publish(open_store(data_dir), tmp_path, "a")
    back_up(data_dir, archive)
    before = archive.read_bytes()
    with full_disk(1000), pytest.raises(BackupError, match="cannot be written"):
        back_up(data_dir, archive)
    assert [path.name for path in archive.parent.iterdir()] == [archive.name] and archive.read_bytes() == before


def test_the_database_of_a_backup_is_one_file(data_dir: Path, archive: Path, tmp_path: Path) -> None:
    with closing(connect(data_dir / "reheatd.sqlite3")) as db:
        AdapterStore(data_dir / "adapters", db)
        Ledger(db)
        back_up(data_dir, archive)
    restore(archive, tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["reheatd.sqlite3"]
