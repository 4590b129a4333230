"""The daemon's database: migrated from what earlier versions wrote, refused if newer or damaged, never a traceback."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from reheatd.adapters.store import AdapterStore
from reheatd.control.ledger import Ledger
from reheatd.database import StateError, StateTooNewError, connect, copy_database
from reheatd.entropy.live import LiveSeries
from reheatd.entropy.series import EntropySeries
from reheatd.errors import ReheatdError
from reheatd.jobs.contracts import JobStatus, ReheatRequest, RLRequest
from reheatd.migrations import MIGRATIONS, SCHEMA_VERSION, migrate, schema_version

STORED = Path(__file__).with_name("stored") / "unnumbered.sql"
"""What the code of reheatd 0.1 wrote: two jobs, one version that is promoted, windows and a baseline."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reheatd.sqlite3"


def stored(file: Path) -> Path:
    with closing(sqlite3.connect(file)) as db:
        db.executescript(STORED.read_text())
    return file


def test_a_database_without_a_number_is_migrated_and_a_copy_is_kept(file: Path) -> None:
    with closing(connect(stored(file))) as db:
        assert schema_version(db) == SCHEMA_VERSION
        ledger = Ledger(db)
        ledger.resume()
        assert [entry.event for entry in ledger.entries(2)] == ["transition", "resumed"]
        jobs = ledger.jobs.all()
        assert [(job.kind, job.status, job.version) for job in jobs] == [
            ("reheat", JobStatus.SUCCEEDED, 1),
            ("rl", JobStatus.QUEUED, None),
        ]
        assert isinstance(jobs[0].request, ReheatRequest) and jobs[0].request.tau == 1.5
        windows = EntropySeries(db, "key").last(10)
        assert [window.estimate.mean for window in windows] == [1.9, 0.4]
        assert LiveSeries(db, confidence=0.95).newest()[0].estimate.mean == 1.25
    (kept,) = file.parent.glob("reheatd-schema-0.sqlite3")
    with closing(sqlite3.connect(kept)) as db:
        assert schema_version(db) == 0 and db.execute("SELECT COUNT(*) FROM jobs").fetchone() == (2,)
    with closing(connect(file)) as db:  # only once
        assert schema_version(db) == SCHEMA_VERSION


def test_a_new_database_has_the_newest_schema_and_no_copy(file: Path) -> None:
    with closing(connect(file)) as db:
        assert schema_version(db) == SCHEMA_VERSION
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_migration_that_fails_leaves_the_version_before(file: Path) -> None:
    def adds(db: sqlite3.Connection) -> None:
        db.execute("ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0")

    def fails(db: sqlite3.Connection) -> None:
        db.execute("UPDATE jobs SET priority = 9")
        db.execute("SELECT * FROM no_such_table")

    with closing(sqlite3.connect(stored(file))) as db:
        with pytest.raises(sqlite3.OperationalError, match="no_such_table"):
            migrate(db, (*MIGRATIONS, adds, fails))
        assert schema_version(db) == len(MIGRATIONS) + 1
        assert db.execute("SELECT priority FROM jobs").fetchall() == [(0,), (0,)]


def test_a_database_of_a_newer_version_is_refused_in_one_line(file: Path) -> None:
    with closing(connect(file)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StateTooNewError, match=r"newer reheatd .* install that version"):
        connect(file)


@pytest.mark.parametrize("damage", ["truncated", "no database", "a page", "empty"])
def test_a_damaged_database_is_named_with_the_way_out(damage: str, file: Path) -> None:
    with closing(connect(file)) as db:
        ledger = Ledger(db)
        for _ in range(50):
            ledger.create(RLRequest(), "manual", JobStatus.QUEUED, 0)
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "no database":
        file.write_bytes(b"x" * 5000)
    elif damage == "a page":
        file.write_bytes(content[:4096] + b"\xff" * 4096 + content[8192:])
    else:
        file.write_bytes(b"")
        (file.parent / "adapters" / "policy-v1-abc").mkdir(parents=True)
    with pytest.raises(StateError) as caught:
        connect(file)
    message = caught.value.message
    assert str(file) in message and "reheatd restore" in message and "\n" not in message


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="name another folder with --data-dir"):
        connect(tmp_path / "file" / "reheatd.sqlite3")
    (tmp_path / "reheatd.sqlite3").mkdir()
    with pytest.raises(StateError, match="cannot be read or written"):
        connect(tmp_path / "reheatd.sqlite3")


def test_one_bad_record_takes_no_other_with_it(file: Path) -> None:
    with closing(connect(stored(file))) as db:
        ledger, live = Ledger(db), LiveSeries(db, confidence=0.95)
        bad = ledger.create(RLRequest(), "manual", JobStatus.QUEUED, 0).job.job_id
        with db:
            db.execute("UPDATE jobs SET record = substr(record, 1, 90) WHERE job_id = ?", (bad,))
            db.execute("UPDATE entropy_windows SET window = '{}' WHERE id = 1")
            db.execute("UPDATE live_windows SET window = 'x'")
        assert [job.kind for job in ledger.jobs.all()] == ["reheat", "rl"]
        assert len(ledger.jobs.waiting()) == 1 and ledger.jobs.active() is None
        assert ledger.jobs.data_places() == []
        assert len([*ledger.jobs.newest_first("manual")]) == 2
        with pytest.raises(ReheatdError, match=f"record of job {bad} is damaged"):
            ledger.jobs.get(bad)
        assert [window.estimate.mean for window in EntropySeries(db, "key").last(10)] == [0.4]
        assert live.last(10) == [] and LiveSeries(db, confidence=0.95).newest() == []


def test_a_lineage_of_a_newer_version_is_refused_and_one_without_a_number_is_read(file: Path) -> None:
    folder = file.parent / "adapters" / "policy-v1-2bf8776c29d7"
    folder.mkdir(parents=True)
    lineage = folder / "lineage.json"
    old = '{"version": 1, "parent": 0, "base_model": "m", "base_digest": "d", "digest": "d", "kind": "reheat"'
    with closing(connect(stored(file))) as db:
        lineage.write_text(old + "}")
        assert AdapterStore(file.parent / "adapters", db).get(1).state == "promoted"
        lineage.write_text(old + ', "format": 2, "colour": "red"}')
        with pytest.raises(StateTooNewError, match=r"lineage\.json was written by a newer reheatd"):
            AdapterStore(file.parent / "adapters", db)


def test_a_copy_is_whole_while_the_database_is_written(file: Path, tmp_path: Path) -> None:
    with closing(connect(file)) as db:
        ledger = Ledger(db)
        ledger.create(RLRequest(), "manual", JobStatus.QUEUED, 0)
        copy_database(file, tmp_path / "copy.sqlite3")
        ledger.create(RLRequest(), "manual", JobStatus.QUEUED, 0)
    with closing(sqlite3.connect(tmp_path / "copy.sqlite3")) as db:
        assert db.execute("SELECT COUNT(*) FROM jobs").fetchone() == (1,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
