"""A disk that is full at every kind of write, under a running daemon; see `tests.chaos.disks`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.arena import COOL, RL, Arena, Proven, running_arena
from tests.chaos.conftest import Inject
from tests.chaos.disks import SmallDisk, small_disk
from tests.chaos.load import eventually

NO_ROOM = re.compile(r"no space left|disk is full|disk is out of space|disk I/O error", re.IGNORECASE)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("disk") / "data") as disk:
        yield disk


@pytest.fixture(scope="module")
def arena(tiny_policy: Path, adapters: list[Proven], disk: SmallDisk) -> Iterator[Arena]:
    with running_arena(disk.folder.parent, tiny_policy, adapters[:1]) as arena:
        yield arena


def test_it_is_full_while_no_job_runs(arena: Arena, disk: SmallDisk, fault: Inject) -> None:
    with fault("disk full: no job runs", arena) as injected:
        with disk.full():
            injected.inject(lambda: None)
            refused = arena.post("/jobs", RL)
            assert refused.status_code in (503, 507), refused.text
            assert NO_ROOM.search(refused.json()["error"]["message"]), refused.text
            assert arena.http.get("/health").status_code == 200
        job = arena.wait_over(arena.submit(RL))
        injected.recovered()
    assert job["status"] == "succeeded", job


@pytest.mark.parametrize(
    ("at", "request_of"),
    [("sampling", RL), ("training", COOL), ("evaluating", RL), ("gating", RL), ("swapping", RL)],
)
def test_it_is_full_while_a_job_is(
    at: str, request_of: dict[str, Any], arena: Arena, disk: SmallDisk, fault: Inject
) -> None:
    """The job waits, or fails and says why; once there is room, the next one succeeds."""
    with fault(f"disk full: {at}", arena) as injected:
        said = len(arena.daemon.log)

        def is_there(job_id: str) -> bool:
            return at in (arena.archive.job(job_id)["status"], arena.report(job_id)[0])

        job_id, held = arena.hold_during(request_of, lambda: arena.process, is_there)
        with disk.full():
            injected.inject(held.resume)
            eventually(
                lambda: NO_ROOM.search(arena.daemon.log[said:]) or arena.is_over(job_id),
                "the daemon notices that the disk is full",
            )
        job, following = arena.wait_over(job_id), arena.wait_over(arena.submit(RL))
        injected.recovered()
    assert job["status"] == "succeeded" or (job["status"] == "failed" and NO_ROOM.search(job["error"])), job
    assert following["status"] == "succeeded", following
