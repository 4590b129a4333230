"""Faults of the engine, of adapters' files, and of a swap; requests that keep the engine busy.

One daemon runs for all of them, with an engine of its own.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from reheatd.names import parse_version_name
from tests.chaos.arena import RL, Arena, Proven, running_arena
from tests.chaos.conftest import Inject
from tests.chaos.heavy import HEAVY, SLOW, Stream
from tests.chaos.load import Outage, eventually
from tests.chaos.strike import end, freeze, hold, is_alive
from tests.waiting import HANGS_S

STOPPED_S = 90.0
"""How long the engine stands still, in seconds."""
TRIES = 5
KEEPS_VERSION_S = 15.0
"""How long a client that does not read keeps an old version from being unloaded: less than the daemon waits, 20 s."""
READS_LATER_S = 5.0
"""How long a slow reader does not read at all, in seconds."""


@pytest.fixture(scope="module")
def arena(tiny_policy: Path, adapters: list[Proven], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with running_arena(tmp_path_factory.mktemp("engine"), tiny_policy, adapters) as arena:
        yield arena


def kill_engine(arena: Arena, outage: Outage, *which: psutil.Process) -> None:
    """Kills processes of the engine, and waits until all of it is gone."""
    engine = arena.engine()
    end(*(which or engine))
    eventually(lambda: not any(map(is_alive, engine)), "the engine is gone")
    outage.struck = time.monotonic()


@contextmanager
def promoting(arena: Arena, version: int) -> Iterator["Future[httpx.Response]"]:
    """Asks for a promotion in the background; inside the context, the daemon has begun it."""
    said = len(arena.daemon.log)
    with ThreadPoolExecutor(1) as background:
        answer = background.submit(arena.promote, version)
        eventually(lambda: f"swap: stage policy-v{version}" in arena.daemon.log[said:], "the swap begins")
        yield answer


def test_its_core_is_killed_while_a_job_samples(arena: Arena, fault: Inject) -> None:
    with fault("kill -9 of the engine's core: serving, a job samples", arena) as injected:
        job_id = arena.submit(RL)
        core = arena.engine_core()
        held = hold(lambda: core, lambda: arena.report(job_id)[0] == "sampling")
        with injected.takes_away("engine") as outage:
            injected.inject(lambda: kill_engine(arena, outage, held))
        job = arena.wait_over(job_id)
        injected.recovered()
    assert (job["status"], job["attempt"]) == ("succeeded", 1), job


def test_it_is_killed_while_a_version_is_staged(arena: Arena, fault: Inject) -> None:
    before = arena.archive.promoted()[-1]
    with fault("kill -9 of the engine: staging", arena) as injected:
        with injected.takes_away("engine") as outage:
            freeze(*arena.engine())
            with promoting(arena, 2) as promotion:
                injected.inject(lambda: kill_engine(arena, outage))
                answer = promotion.result()
        injected.recovered()
    # The promotion either waited for the engine, or was refused in a way that says to try again.
    assert answer.status_code == 200 or (answer.status_code == 503 and "retry-after" in answer.headers), answer.text
    assert arena.archive.promoted()[-1] == (2 if answer.status_code == 200 else before)


def test_it_is_killed_between_flip_and_unload(arena: Arena, fault: Inject) -> None:
    """A request on the old version is in flight then, whose client does not read, or its unloading is."""
    first, second = arena.archive.promoted()[-1], 3
    with fault("kill -9 of the engine: between flip and unload", arena) as injected:
        for _ in range(TRIES):
            reader = Stream(arena.url, SLOW, pause_s=KEEPS_VERSION_S)
            reader.start()
            assert reader.begun.wait(HANGS_S), reader.problem
            with promoting(arena, second) as promotion:
                api = arena.engine()[0]
                hold(lambda api=api: api, lambda version=second: arena.archive.promoted()[-1] == version)
                arena.get("/status")  # the daemon has done by now what it could without the engine
                if promotion.done():
                    api.resume()
                else:
                    with injected.takes_away("engine") as outage:
                        injected.inject(lambda outage=outage: kill_engine(arena, outage))
                        answer = promotion.result()
                    break
            reader.join()
            first, second = second, first
        else:
            raise AssertionError(f"no kill was in time for any of {TRIES} swaps")
        injected.recovered()
        reader.join()
    assert answer.status_code == 200, answer.text
    assert arena.archive.promoted()[-1] == second


def test_it_stands_still(arena: Arena, fault: Inject) -> None:
    with fault(f"the engine is stopped for {STOPPED_S:.0f} s", arena) as injected:
        with injected.takes_away("engine") as outage:
            engine, wakes = arena.engine(), time.monotonic() + STOPPED_S
            injected.inject(lambda: freeze(*engine))
            while time.monotonic() < wakes and any(map(is_alive, engine)):
                time.sleep(0.05)
            # What was sent to it until now is in flight: it has accepted the connections.
            outage.struck = time.monotonic()
            for process in filter(is_alive, engine):
                process.resume()
        injected.recovered()


def test_heavy_requests_and_slow_readers(arena: Arena, fault: Inject) -> None:
    """Requests that keep the engine writing JSON, and clients that do not read what it writes."""
    engine = arena.engine()
    with fault("heavy but legal requests, slow readers", arena) as injected:
        heavy = [Stream(arena.url, HEAVY) for _ in range(3)]
        slow = [Stream(arena.url, SLOW, pause_s=READS_LATER_S) for _ in range(2)]
        for stream in (*heavy, *slow):
            injected.inject(stream.start)
        for stream in (*heavy, *slow):
            stream.join()
        injected.recovered()
    assert [stream.problem for stream in (*heavy, *slow)] == [""] * 5
    assert [stream.finished for stream in (*heavy, *slow)] == [HEAVY["n"]] * 3 + [SLOW["n"]] * 2
    assert arena.engine() == engine


def test_files_of_candidates_are_damaged(arena: Arena, fault: Inject) -> None:
    before = arena.archive.promoted()[-1]
    # The engine goes on with a version that it has loaded, whatever happens to the files.
    loaded = {0, before, *map(parse_version_name, arena.get("/status")["adapters_loaded"])}
    versions = sorted(row["version"] for row in arena.get("/adapters")["adapters"])
    first, second, third, fourth = [version for version in versions if version not in loaded][:4]
    damages: dict[int, Callable[[Path], None]] = {first: _corrupt, second: _truncate, third: _delete}
    with fault("an adapter file is corrupt, truncated, deleted or swapped", arena) as injected:
        for version, damage in damages.items():
            arena.archive.damaged.add(version)
            injected.inject(lambda version=version, damage=damage: damage(_weights(arena, version)))
        arena.archive.damaged.add(fourth)
        injected.inject(lambda: _weights(arena, fourth).write_bytes(_weights(arena, before).read_bytes()))
        for version in arena.archive.damaged:
            answer = arena.promote(version)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["code"] == "invalid_adapter"
            pinned = arena.http.post("/v1/completions", json={"model": f"policy-v{version}", "prompt": "a"})
            assert 400 <= pinned.status_code < 500, pinned.text
        assert len(arena.get("/adapters")["adapters"]) == 1 + len(arena.archive.rows("SELECT * FROM adapter_versions"))
        job = arena.wait_over(arena.submit(RL))
        injected.recovered()
    assert (job["status"], job["parent_version"]) == ("succeeded", before), job


def test_the_promoted_version_is_deleted_and_the_engine_killed(arena: Arena, fault: Inject) -> None:
    lost, before = arena.archive.promoted()[-1], arena.get("/adapters")["adapters"]
    said = len(arena.daemon.log)
    with fault("files of the promoted version deleted, then kill -9 of the engine", arena) as injected:
        _delete(_weights(arena, lost))
        arena.archive.damaged.add(lost)
        with injected.takes_away("engine") as outage:
            injected.inject(lambda: kill_engine(arena, outage))
        injected.recovered()
    served = arena.archive.promoted()[-1]
    assert served not in arena.archive.damaged
    assert f"policy-v{served} is served in its place" in arena.daemon.log[said:]
    assert len(arena.get("/adapters")["adapters"]) == len(before)
    job = arena.wait_over(arena.submit(RL))
    assert (job["status"], job["parent_version"]) == ("succeeded", served), job


def test_sigterm_during_a_swap(arena: Arena, fault: Inject) -> None:
    """What is in flight ends whole; the swap is either done or undone."""
    before = arena.archive.promoted()[-1]
    target = max({3, 6}.difference(arena.archive.damaged, {before}))
    with fault("SIGTERM of the daemon: swapping", arena) as injected:
        with promoting(arena, target), injected.takes_away("daemon") as outage:
            injected.inject(arena.daemon.process.terminate)
            assert arena.daemon.process.wait() == 0
            arena.start()
        injected.recovered()
        broken = [request for request in injected.load.failed if request.began < outage.began]
        assert not broken, broken
    assert arena.archive.promoted()[-1] in (before, target)
    loaded = arena.get("/status")["adapters_loaded"]
    assert len(loaded) == 1 and loaded[0].startswith(f"policy-v{arena.archive.promoted()[-1]}")


def _weights(arena: Arena, version: int) -> Path:
    (row,) = arena.archive.rows("SELECT folder FROM adapter_versions WHERE version = ?", version)
    return arena.data_dir / "adapters" / row["folder"] / "adapter_model.safetensors"


def _corrupt(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def _truncate(file: Path) -> None:
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size // 2)


def _delete(file: Path) -> None:
    file.unlink()
