"""Immutable versions, their numbers, and the durable record of which one is promoted."""

import asyncio
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from reheatd.adapters.exporting import export_files
from reheatd.adapters.store import MOMENTS_FILE, AdapterStore
from reheatd.database import connect
from reheatd.errors import AdapterInvalidError, ConflictError, NotFoundError
from reheatd.names import parse_version_name

FIELDS: dict[str, Any] = {"parent": 0, "base_model": "tiny", "base_digest": "0" * 64, "kind": "reheat"}


@pytest.fixture
def db(tmp_path: Path) -> sqlite3.Connection:
    return connect(tmp_path / "reheatd.sqlite3")


def open_store(tmp_path: Path, db: sqlite3.Connection) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters", db)


def source(tmp_path: Path, content: str) -> Path:
    folder = tmp_path / f"trained-{content}"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(content)
    (folder / "adapter_config.json").write_text("{}")
    return folder


def publish(store: AdapterStore, tmp_path: Path, content: str) -> int:
    return asyncio.run(store.publish(source(tmp_path, content), **FIELDS)).version


def test_a_published_version_is_complete_and_survives_a_restart(tmp_path: Path, db: sqlite3.Connection) -> None:
    record = asyncio.run(open_store(tmp_path, db).publish(source(tmp_path, "a"), **FIELDS, tau=1.5, job_id="j1"))
    store = open_store(tmp_path, db)
    info = store.get(1)
    assert (info.name, info.state, info.lineage) == ("policy-v1", "candidate", record)
    folder = store.path(1)
    assert folder.name == f"policy-v1-{record.digest[:12]}"
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "lineage.json",
    ]
    assert [info.version for info in store.list()] == [0, 1]


def test_a_report_lies_beside_the_adapter(tmp_path: Path, db: sqlite3.Connection) -> None:
    report = tmp_path / "job" / "report"
    report.mkdir(parents=True)
    (report / "report.md").write_text("# what changed")
    store = open_store(tmp_path, db)
    with_report = asyncio.run(store.publish(source(tmp_path, "a"), report, **FIELDS))
    without = asyncio.run(store.publish(source(tmp_path, "a"), **FIELDS))
    assert store.report_path(1) == store.path(1) / "report"
    assert (store.path(1) / "report" / "report.md").read_text() == "# what changed"
    assert store.report_path(2) is None and store.report_path(0) is None
    assert with_report.digest == without.digest


def test_moments_lie_beside_the_adapter_and_go_with_it(tmp_path: Path, db: sqlite3.Connection) -> None:
    store = open_store(tmp_path, db)
    trained = source(tmp_path, "a")
    without = asyncio.run(store.publish(trained, **FIELDS))
    (trained / MOMENTS_FILE).write_bytes(bytes(1000))
    with_moments = asyncio.run(store.publish(trained, **FIELDS))
    assert without.digest == with_moments.digest
    assert store.disk_bytes(1) < 1000 <= store.disk_bytes(2)
    assert (asyncio.run(store.intact_path(2)) / MOMENTS_FILE).read_bytes() == bytes(1000)
    assert MOMENTS_FILE not in export_files(store.path(2), "tiny")
    store.delete(2)
    assert not [*tmp_path.glob(f"adapters/**/{MOMENTS_FILE}")]


def test_numbers_are_never_used_again(tmp_path: Path, db: sqlite3.Connection) -> None:
    store = open_store(tmp_path, db)
    assert [publish(store, tmp_path, "a"), publish(store, tmp_path, "b")] == [1, 2]
    folder = store.path(2)
    store.delete(2)
    assert not folder.exists()
    assert publish(open_store(tmp_path, db), tmp_path, "b") == 3
    with pytest.raises(NotFoundError, match="version 2 does not exist; there are policy-v0, policy-v1, policy-v3"):
        store.get(2)


def test_promotions_and_what_roll_back_means(tmp_path: Path, db: sqlite3.Connection) -> None:
    store = open_store(tmp_path, db)
    for content in "abc":
        publish(store, tmp_path, content)
    assert (store.promoted(), store.previous(), store.get(0).state) == (0, None, "promoted")
    store.promote(1)
    assert (store.promoted(), store.previous(), store.get(0).state) == (1, 0, "retired")
    store.promote(2)
    store.promote(3)
    assert (store.promoted(), store.previous()) == (3, 2)
    assert [info.state for info in store.list()] == ["retired", "retired", "retired", "promoted"]
    store.promote(2)
    assert store.previous() == 1  # and not 3, which was just left
    store.promote(3)
    assert store.previous() == 2
    store.set_state(2, "rejected")
    assert store.previous() == 1
    store.promote(1)
    assert store.previous() == 0
    store.promote(3)
    store.delete(1)
    assert store.previous() == 0
    assert open_store(tmp_path, db).promoted() == 3
    with pytest.raises(NotFoundError):
        store.promote(9)
    assert store.promoted() == 3


def test_the_promoted_version_and_the_base_are_not_deleted(tmp_path: Path, db: sqlite3.Connection) -> None:
    store = open_store(tmp_path, db)
    store.promote(publish(store, tmp_path, "a"))
    for version in (0, 1):
        with pytest.raises(ConflictError, match="promote another version first"):
            store.delete(version)


def test_a_version_that_is_half_deleted_is_not_there_any_more(
    tmp_path: Path, db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path, db)
    folder = store.path(publish(store, tmp_path, "a"))

    def cut_off(path: Path) -> None:
        raise OSError("cut off")

    with monkeypatch.context() as faulty:
        faulty.setattr("reheatd.adapters.store.shutil.rmtree", cut_off)
        with pytest.raises(OSError, match="cut off"):
            store.delete(1)
    assert not folder.exists()
    assert open_store(tmp_path, db).versions() == [0] and not list(folder.parent.iterdir())


def test_a_crash_while_publishing_leaves_nothing_behind(tmp_path: Path, db: sqlite3.Connection) -> None:
    store = open_store(tmp_path, db)
    publish(store, tmp_path, "a")
    # As a crash between the rename and the record leaves it, and one before the rename.
    folder = store.path(publish(store, tmp_path, "b"))
    with db:
        db.execute("UPDATE adapter_versions SET folder = '' WHERE version = 2")
    scratch = folder.parent / ".policy-v3-x.tmp"
    scratch.mkdir()
    store = open_store(tmp_path, db)
    assert store.versions() == [0, 1]
    assert not folder.exists()
    assert not scratch.exists()
    assert publish(store, tmp_path, "c") == 3


def test_a_source_that_cannot_be_copied_leaves_nothing_behind(tmp_path: Path, db: sqlite3.Connection) -> None:
    store = open_store(tmp_path, db)
    folder = source(tmp_path, "a")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(FileNotFoundError):
        asyncio.run(store.publish(folder, **FIELDS))
    assert store.versions() == [0]
    assert list((tmp_path / "adapters").iterdir()) == []


def test_a_lost_database_does_not_cost_the_versions(tmp_path: Path, db: sqlite3.Connection) -> None:
    store = open_store(tmp_path, db)
    publish(store, tmp_path, "a")
    publish(store, tmp_path, "b")
    store = open_store(tmp_path, connect(tmp_path / "new.sqlite3"))
    assert [(info.version, info.state) for info in store.list()][1:] == [(1, "retired"), (2, "retired")]
    assert publish(store, tmp_path, "c") == 3


def test_lost_and_changed_files_are_noticed(tmp_path: Path, db: sqlite3.Connection) -> None:
    store = open_store(tmp_path, db)
    for content in "abc":
        publish(store, tmp_path, content)
    assert asyncio.run(store.intact_path(1)) == store.path(1)
    (store.path(1) / "adapter_model.safetensors").write_text("A")
    with pytest.raises(AdapterInvalidError, match=r"policy-v1 in .* are not those that were published"):
        asyncio.run(store.intact_path(1))
    (store.path(2) / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterInvalidError, match="policy-v2 cannot be read from"):
        asyncio.run(store.intact_path(2))
    (store.path(3) / "lineage.json").unlink()
    assert open_store(tmp_path, db).versions() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("base", 0),
        ("policy-v0", 0),
        ("policy-v12", 12),
        ("policy", None),
        ("policy-v01", None),
        ("policy-v-1", None),
        ("policy-v1 ", None),
        ("policy-v1\n", None),
        ("policy-v1\u0663", None),
        ("policy-v" + "9" * 5000, None),
        ("job-a-1", None),
    ],
)
def test_names(name: str, version: int | None) -> None:
    assert parse_version_name(name) == version


@pytest.mark.parametrize("damage", ["folder", "lineage", "content"])
def test_a_version_that_is_lost_takes_no_other_with_it(damage: str, tmp_path: Path, db: sqlite3.Connection) -> None:
    store = open_store(tmp_path, db)
    for content in "abc":
        store.promote(publish(store, tmp_path, content))
    folder = store.path(2)
    if damage == "folder":
        shutil.rmtree(folder)
    elif damage == "lineage":
        (folder / "lineage.json").unlink()
    else:
        (folder / "lineage.json").write_text('{"version": 2')
    assert [(info.version, info.state) for info in store.list()][1:] == [(1, "retired"), (2, "lost"), (3, "promoted")]
    assert store.get(2).lineage is None
    assert store.previous() == 1
    with pytest.raises(AdapterInvalidError, match="policy-v2"):
        asyncio.run(store.intact_path(2))
    assert publish(store, tmp_path, "d") == 4
    store.delete(2)
    assert not folder.exists()
    assert store.versions() == [0, 1, 3, 4]
