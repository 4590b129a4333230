"""`kill -9` of the daemon in every state of the control loop and of its jobs.

The engine runs on its own, so that a daemon is back in seconds, and finds that the engine holds what the dead one had
loaded.
Broker and workers are the daemon's children, and end with it.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from reheatd.adapters.archive import pack
from tests.chaos.arena import API, COOL, RL, Arena, Proven, running_arena
from tests.chaos.conftest import Inject
from tests.chaos.fault import Fault
from tests.chaos.load import eventually
from tests.chaos.strike import end, hold
from tests.engine_process import running_engine

AT_THE_GATES: dict[str, Any] = {"accuracy_tolerance": 0.05, "no_evidence": "ask"}
"""Gates without evidence on a task that the policy never solves: a version waits for approval."""


@pytest.fixture(scope="module")
def arena(tiny_policy: Path, adapters: list[Proven], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("killed")
    with (
        running_engine(tiny_policy, folder / "engine.log", max_loras=6, max_lora_rank=16) as url,
        running_arena(folder, tiny_policy, adapters[:1], engine={"url": url}) as arena,
    ):
        yield arena


def kill(fault: Fault, daemon: psutil.Process) -> None:
    """Kills the daemon, and starts it again."""
    with fault.takes_away("daemon"):
        fault.inject(lambda: end(daemon))
        fault.arena.start()


def kill_at(fault: Fault, at: Callable[[], bool], over: Callable[[], bool] = lambda: False) -> None:
    """Kills the daemon while `at` holds, and starts it again."""
    process = fault.arena.process
    kill(fault, hold(lambda: process, at, over))


def kill_during(fault: Fault, request: dict[str, Any], at: Callable[[str], bool]) -> dict[str, Any]:
    """Kills the daemon while `at` holds for a job, and returns the job once it is over."""
    process = fault.arena.process
    job_id, held = fault.arena.hold_during(request, lambda: process, at)
    kill(fault, held)
    return fault.arena.wait_over(job_id)


def test_while_it_serves(arena: Arena, fault: Inject) -> None:
    with fault("kill -9 of the daemon: serving", arena) as injected:
        kill_at(injected, lambda: True)
        injected.recovered()
    assert arena.get("/status")["promoted"]["version"] == 1


@pytest.mark.parametrize(
    ("state", "request_of", "phase"),
    [
        ("continuing_rl", RL, "sampling"),
        ("reheating", COOL, "training"),
        ("gating", RL, ""),
        ("swapping", RL, ""),
    ],
)
def test_while_a_job_is(state: str, request_of: dict[str, Any], phase: str, arena: Arena, fault: Inject) -> None:
    before = arena.archive.promoted()[-1]
    with fault(f"kill -9 of the daemon: {state} {phase}".strip(), arena) as injected:

        def at(job_id: str) -> bool:
            return arena.archive.state() == state and (not phase or arena.report(job_id)[0] == phase)

        job = kill_during(injected, request_of, at)
        injected.recovered()
    assert (job["status"], job["parent_version"]) == ("succeeded", before), job
    assert arena.archive.promoted()[-1] == job["version"]
    assert arena.get("/status")["state"] == "serving"


def test_while_it_publishes_a_version(arena: Arena, fault: Inject) -> None:
    """The folder of the version is half written."""
    folder = arena.data_dir / "adapters"
    with fault("kill -9 of the daemon: gating, version half written", arena) as injected:
        job = kill_during(injected, RL, lambda _: any(folder.glob(".policy-v*.tmp")))
        injected.recovered()
    assert job["status"] == "succeeded", job


def test_while_jobs_are_queued(arena: Arena, fault: Inject) -> None:
    with fault("kill -9 of the daemon: one job runs, two are queued", arena) as injected:
        jobs = [arena.submit(RL, seed=seed) for seed in range(3)]
        kill_at(injected, lambda: arena.archive.job(jobs[0])["status"] == "running", lambda: arena.is_over(jobs[0]))
        over = [arena.wait_over(job_id) for job_id in jobs]
        injected.recovered()
    assert [job["status"] for job in over] == ["succeeded"] * 3, over
    assert [job["parent_version"] for job in over[1:]] == [job["version"] for job in over[:-1]]


def test_while_a_version_waits_for_approval(arena: Arena, fault: Inject) -> None:
    arena.restart(gate=AT_THE_GATES)
    with fault("kill -9 of the daemon: a version waits for approval", arena) as injected:
        job_id = arena.submit(RL)
        kill_at(injected, lambda: arena.archive.job(job_id)["status"] == "awaiting_approval")
        assert arena.get(f"/jobs/{job_id}")["status"] == "awaiting_approval"
        assert arena.post(f"/jobs/{job_id}/approve").status_code == 200
        job = arena.wait_over(job_id)
        injected.recovered()
    arena.restart(gate={"accuracy_tolerance": 1.0, "no_evidence": "pass"})
    assert job["status"] == "succeeded", job
    assert arena.archive.promoted()[-1] == job["version"]


def test_while_it_imports(arena: Arena, adapters: list[Proven], fault: Inject) -> None:
    sent = io.BytesIO(b"".join(pack({file.name: file for file in adapters[1][0].iterdir()})))
    promoted = arena.archive.promoted()
    with fault("kill -9 of the daemon: importing", arena) as injected:
        answer = arena.http.put(f"{API}/adapters", content=sent.getvalue())
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["job_id"]
        kill_at(injected, lambda: arena.archive.state() == "importing" and arena.report(job_id)[0] == "evaluating")
        job = arena.wait_over(job_id)
        injected.recovered()
    assert job["status"] == "succeeded", job
    assert arena.archive.promoted() == promoted
    assert arena.promote(job["version"]).status_code == 200


def test_while_the_policy_is_collapsed(arena: Arena, fault: Inject) -> None:
    """Against a baseline that is far above, the policy's entropy counts as collapsed."""
    arena.restart(entropy={"baseline_nats": 1000.0, "patience": 1, "interval_s": 5.0, "max_share": 1.0})
    eventually(lambda: arena.archive.state() == "collapsed", "the collapse is noticed")
    with fault("kill -9 of the daemon: collapsed", arena) as injected:
        kill_at(injected, lambda: arena.archive.state() == "collapsed")
        assert arena.get("/status")["state"] == "collapsed"
        injected.recovered()


def test_while_the_run_has_stalled(arena: Arena, fault: Inject) -> None:
    """One job of RL in which no group varies is enough here."""
    every = {"baseline_nats": 2.6, "collapse_ratio": 0.1, "stall_steps": 1, "interval_s": 5.0}
    arena.restart(entropy=every, task={"reward": "tests.chaos.rewards:nothing"})
    arena.wait_over(arena.submit(RL))
    eventually(lambda: arena.archive.state() == "stalled", "the stall is noticed")
    with fault("kill -9 of the daemon: stalled", arena) as injected:
        kill_at(injected, lambda: arena.archive.state() == "stalled")
        assert arena.get("/status")["state"] == "stalled"
        injected.recovered()
