"""Faults of the data folder and of the clock, and daemons that come into each other's way.

The engine runs on its own, so that a daemon is back in seconds.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.arena import COOL, RL, Arena, Proven, running_arena
from tests.chaos.conftest import Inject
from tests.chaos.disks import read_only
from tests.chaos.load import eventually
from tests.engine_process import running_engine

HOOKS = Path(__file__).parent / "hooks"
SET_BACK_S = -3600.0


@pytest.fixture(scope="module")
def engine(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with running_engine(tiny_policy, log, max_loras=6, max_lora_rank=16) as url:
        yield url


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file by which the daemon's clock is set: the seconds that it is off."""
    return tmp_path_factory.mktemp("clock") / "offset"


@pytest.fixture(scope="module")
def arena(
    engine: str, clock: Path, tiny_policy: Path, adapters: list[Proven], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("state")
    env = {"CHAOS_CLOCK": str(clock), "PYTHONPATH": f"{HOOKS}:{Path.cwd()}"}
    with running_arena(folder, tiny_policy, adapters[:2], env=env, engine={"url": engine}) as arena:
        yield arena


def test_two_daemons_on_one_data_folder(arena: Arena, fault: Inject) -> None:
    with fault("a second daemon on the same data folder", arena) as injected:
        injected.inject(lambda: None)
        second = arena.try_to_start()
        job = arena.wait_over(arena.submit(RL))
        injected.recovered()
    assert second.returncode == 2
    assert f"process id {arena.daemon.process.pid}" in second.stdout
    assert "Traceback" not in second.stderr
    assert job["status"] == "succeeded", job


def test_two_daemons_on_one_engine(
    arena: Arena, engine: str, adapters: list[Proven], tiny_policy: Path, tmp_path: Path, fault: Inject
) -> None:
    """Each has a version 1, of other weights: the second daemon is refused, and the first serves its own."""
    second = Arena(tmp_path, tiny_policy, engine={"url": engine, "startup_timeout_s": 20.0}, workers={"count": 0})
    second.seed(adapters[2:3])
    with fault("a second daemon on the same engine", arena) as injected:
        injected.inject(lambda: None)
        try:
            with pytest.raises(AssertionError, match=f"the engine at {engine} serves another daemon"):
                second.start()
        finally:
            second.close()
        assert arena.promote(2).status_code == 200
        injected.recovered()


def test_the_data_folder_is_read_only(arena: Arena, fault: Inject) -> None:
    with fault("read-only data folder at a start", arena) as injected:
        with injected.takes_away("daemon"):
            arena.stop()
            with read_only(arena.data_dir):
                injected.inject(lambda: None)
                second = arena.try_to_start()
            arena.start()
        job = arena.wait_over(arena.submit(RL))
        injected.recovered()
    assert second.returncode == 2
    assert str(arena.data_dir) in second.stdout and "ead-only" in second.stdout
    assert "Traceback" not in second.stderr
    assert job["status"] == "succeeded", job


def test_the_clock_is_set_back(arena: Arena, clock: Path, fault: Inject) -> None:
    """By an hour, for the daemon and its workers, while a job trains; the broker's clock goes on."""
    try:
        with fault("the clock is set back by an hour", arena) as injected:
            job_id = arena.submit(COOL)
            eventually(lambda: arena.report(job_id)[0] == "training", "the job trains")
            injected.inject(lambda: clock.write_text(str(SET_BACK_S)))
            job, following = arena.wait_over(job_id), arena.wait_over(arena.submit(RL))
            injected.recovered()
        assert (job["status"], job["attempt"]) == ("succeeded", 1), job
        assert (following["status"], following["attempt"]) == ("succeeded", 1), following
        assert arena.get("/status")["uptime_s"] >= 0
    finally:
        clock.write_text("0")


@pytest.mark.parametrize("damage", ["corrupt", "truncated", "swapped", "deleted"])
def test_the_promoted_version_is_damaged_while_nothing_runs(damage: str, arena: Arena, fault: Inject) -> None:
    """The version that was promoted before is served, and the damaged one is not lost from the list in silence."""
    damaged, healthy = arena.archive.promoted()[-1], _folder(arena, 1)
    if damaged == 1:
        damaged = arena.wait_over(arena.submit(RL))["version"]
    file = _folder(arena, damaged) / "adapter_model.safetensors"
    said = len(arena.daemon.log)
    with fault(f"the promoted version's file is {damage} before a start", arena) as injected:
        arena.archive.damaged.add(damaged)
        with injected.takes_away("daemon"):
            arena.stop()
            injected.inject(lambda: _damage(file, damage, healthy / file.name))
            arena.start()
        served = arena.archive.promoted()[-1]
        assert served not in arena.archive.damaged
        job = arena.wait_over(arena.submit(RL))
        injected.recovered()
    assert f"policy-v{damaged}" in arena.daemon.log[said:]
    assert (job["status"], job["parent_version"]) == ("succeeded", served), job


@pytest.mark.parametrize("left", [0.0, 0.5], ids=["to nothing", "to half"])
def test_the_database_is_truncated(left: float, arena: Arena, fault: Inject) -> None:
    """The daemon either goes on with every version, or refuses to start in one line that names the file."""
    database = arena.data_dir / "reheatd.sqlite3"
    versions = {path.name for path in (arena.data_dir / "adapters").iterdir()}
    with fault(f"SQLite file truncated {'to half' if left else 'to nothing'}", arena) as injected:
        with injected.takes_away("daemon"):
            arena.stop()
            backup = database.with_suffix(".backup")
            _back_up(database, backup)
            injected.inject(lambda: _truncate(database, left))
            refusal = _try_to_start(arena)
            if refusal is not None:
                assert "reheatd.sqlite3" in refusal and "Traceback" not in refusal, refusal
                shutil.copy(backup, database)
                arena.start()
        if arena.archive.promoted()[-1] != 1:  # a new database does not know what was promoted
            assert arena.promote(1).status_code == 200
        job = arena.wait_over(arena.submit(RL))
        injected.recovered()
    assert versions <= {path.name for path in (arena.data_dir / "adapters").iterdir()}
    assert job["status"] == "succeeded", job
    numbers = [info["version"] for info in arena.get("/adapters")["adapters"]]
    assert len(numbers) == len(set(numbers)) == 1 + len(list((arena.data_dir / "adapters").iterdir()))


def _try_to_start(arena: Arena) -> str | None:
    """Starts the daemon; if it refuses, what it said."""
    try:
        arena.start()
    except AssertionError as refusal:
        return str(refusal)
    return None


def _back_up(database: Path, backup: Path) -> None:
    with sqlite3.connect(database) as source, sqlite3.connect(backup) as target:
        source.backup(target)
    source.close()
    target.close()


def _truncate(database: Path, left: float) -> None:
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    with database.open("r+b") as file:
        file.truncate(int(database.stat().st_size * left))


def _folder(arena: Arena, version: int) -> Path:
    (row,) = arena.archive.rows("SELECT folder FROM adapter_versions WHERE version = ?", version)
    return arena.data_dir / "adapters" / row["folder"]


def _damage(file: Path, how: str, another: Path) -> None:
    content = file.read_bytes()
    if how == "corrupt":
        file.write_bytes(content[:-8] + bytes(8))
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif how == "swapped":
        file.write_bytes(another.read_bytes())
    else:
        shutil.rmtree(file.parent)
