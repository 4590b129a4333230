"""Faults of workers and of the broker, which no client may notice.

One daemon runs for all of them, with two workers.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.arena import COOL, RL, Arena, Proven, running_arena
from tests.chaos.conftest import Inject
from tests.chaos.fault import Fault
from tests.chaos.load import eventually
from tests.chaos.strike import end, freeze, hold, is_alive

LOST_S = 60.0
"""How long the broker is away, in seconds."""


@pytest.fixture(scope="module")
def arena(tiny_policy: Path, adapters: list[Proven], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("workers")
    with running_arena(folder, tiny_policy, adapters[:1], workers={"count": 2}) as arena:
        yield arena


def kill_job_at(fault: Fault, request: dict[str, Any], at: Callable[[str], bool]) -> dict[str, Any]:
    """Kills the process that trains a job while `at` holds for it, and returns the job once it is over."""
    job_id, held = fault.arena.hold_during(request, fault.arena.job_process, at)
    fault.inject(lambda: end(held))
    return fault.arena.wait_over(job_id)


def wait_for_phase(arena: Arena, job_id: str, phase: str) -> None:
    eventually(lambda: arena.report(job_id)[0] == phase, f"{job_id} is {phase}")


def test_the_broker_is_killed(arena: Arena, fault: Inject) -> None:
    with fault("kill -9 of the broker", arena) as injected:
        job_id = arena.submit(COOL)
        wait_for_phase(arena, job_id, "training")
        injected.inject(lambda: end(arena.broker()))
        job = arena.wait_over(job_id)
        injected.recovered()
    assert job["status"] == "succeeded", job


@pytest.mark.parametrize(("request_of", "phase", "step"), [(RL, "sampling", 1), (COOL, "training", 2)])
def test_a_worker_is_killed(request_of: dict[str, Any], phase: str, step: int, arena: Arena, fault: Inject) -> None:
    """In these steps a cooling trains on without sampling in between."""
    with fault(f"kill -9 of a worker: {phase}", arena) as injected:

        def at(job_id: str) -> bool:
            return arena.report(job_id) == (phase, step)

        job = kill_job_at(injected, request_of, at)
        injected.recovered()
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job
    assert arena.archive.promoted()[-1] == job["version"]


def test_a_worker_is_killed_while_it_publishes_a_snapshot(arena: Arena, fault: Inject) -> None:
    with fault("kill -9 of a worker: publish", arena) as injected:

        def at(job_id: str) -> bool:
            # Folders that are renamed meanwhile are passed over.
            folders = os.walk(arena.data_dir / "jobs" / job_id)
            written = {name for _, below, files in folders for name in (*below, *files)}
            return ".rollout-1.tmp" in written or ("rollout-1" in written and "checkpoint.pt" not in written)

        job = kill_job_at(injected, RL, at)
        injected.recovered()
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job


def test_a_worker_is_killed_while_it_writes_a_checkpoint(arena: Arena, fault: Inject) -> None:
    """A pipe takes the place of the file that the checkpoint is written into, and takes only its beginning."""
    with fault("kill -9 of a worker: checkpoint half written", arena) as injected:
        job_id = arena.submit(RL)
        worker = hold(arena.job_process, lambda: bool(arena.report(job_id)[0]))
        job_folder = arena.data_dir / "jobs" / job_id
        pipe = next(job_folder.glob("attempt-1"), job_folder) / "checkpoint.pt.tmp"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        worker.resume()
        beginning = eventually(lambda: _read(reader), "the worker writes its checkpoint")
        injected.inject(lambda: end(worker))
        os.close(reader)
        pipe.unlink()
        pipe.write_bytes(beginning)
        job = arena.wait_over(job_id)
        injected.recovered()
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job


def test_the_broker_is_away_for_a_minute(arena: Arena, fault: Inject) -> None:
    """Without its configuration, it does not come up. Its connections are refused until then."""
    configuration = arena.data_dir / "broker" / "valkey.conf"
    with fault("the broker is away for a minute", arena) as injected:
        job_id = arena.submit(COOL)
        wait_for_phase(arena, job_id, "training")
        hidden = configuration.rename(configuration.with_suffix(".hidden"))
        injected.inject(lambda: end(arena.broker()))
        time.sleep(LOST_S)
        hidden.rename(configuration)
        job = arena.wait_over(job_id)
        injected.recovered()
    assert job["status"] == "succeeded", job


def test_all_of_a_worker_is_killed(arena: Arena, fault: Inject) -> None:
    with fault("kill -9 of a Celery worker with all its processes", arena) as injected:
        job_id = arena.submit(COOL)
        held = hold(arena.job_process, lambda: arena.report(job_id)[0] == "training")
        parent = held.parent()
        assert parent is not None
        injected.inject(lambda: end(parent, held))
        job = arena.wait_over(job_id)
        injected.recovered()
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job
    eventually(lambda: len(arena.workers()) == 2, "the worker is started again")


def test_a_worker_stands_still_past_its_lease_and_wakes(arena: Arena, fault: Inject) -> None:
    """The other worker has the job by then; what the first one still does must have no effect."""
    with fault("a worker is stopped past its lease, then woken", arena) as injected:
        job_id = arena.submit(COOL)
        held = hold(arena.job_process, lambda: arena.report(job_id)[0] == "training")
        parent = held.parent()
        assert parent is not None
        stopped = [parent, *parent.children(recursive=True)]
        injected.inject(lambda: freeze(*stopped))
        eventually(lambda: arena.archive.job(job_id)["attempt"] == 2, "the job is given to the other worker")
        eventually(lambda: arena.report(job_id)[0] not in ("", "training"), "the other worker has begun")
        # The second one stands still while the first one wakes, so that the first one has every chance to go on.
        second = hold(lambda: arena.job_process(besides=held), lambda: arena.report(job_id)[0] == "training")
        _wake(*stopped)
        eventually(lambda: not is_alive(held), "the first one gives up")
        second.resume()
        job = arena.wait_over(job_id)
        injected.recovered()
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job


def test_the_broker_comes_back_empty(arena: Arena, fault: Inject) -> None:
    """With one job in training and one in the queue, of which it knows nothing any more."""
    with fault("kill -9 of the broker, which comes back empty", arena) as injected:
        jobs = [arena.submit(COOL), arena.submit(RL)]
        wait_for_phase(arena, jobs[0], "training")
        # The server holds its files open, so it does not notice before it is started again.
        shutil.rmtree(arena.data_dir / "broker" / "appendonlydir")
        injected.inject(lambda: end(arena.broker()))
        over = [arena.wait_over(job_id) for job_id in jobs]
        injected.recovered()
    assert [job["status"] for job in over] == ["succeeded"] * 2, over


def test_logs_are_removed_and_children_killed(arena: Arena, fault: Inject) -> None:
    """The log that a child had open is gone, and so is the folder for that of the next."""
    with fault("log folder removed, then worker and broker killed", arena) as injected:
        shutil.rmtree(arena.data_dir / "logs")
        workers = arena.workers()
        injected.inject(lambda: end(arena.broker(), *workers))
        eventually(lambda: len(arena.workers()) == 2 and not set(arena.workers()) & set(workers), "workers are back")
        job = arena.wait_over(arena.submit(RL))
        injected.recovered()
    assert job["status"] == "succeeded", job
    assert list((arena.data_dir / "logs").glob("broker*")) and list((arena.data_dir / "logs").glob("worker*"))


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 4096)
    except BlockingIOError:
        return b""


def _wake(*processes: psutil.Process) -> None:
    for process in processes:
        if process.is_running():
            process.resume()
