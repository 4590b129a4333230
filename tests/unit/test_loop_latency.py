"""Long answers of the admin API leave the event loop to clients' streams.

What counts is processor time, so that other processes do not count. A slow machine is slow at once and in parts: the
bounds are shares of what the same answer takes when it is made at once. Milliseconds come from `bench.loop_latency`.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from reheatd.api.schemas import EntropyView, JobList, JournalView, LiveView
from reheatd.entropy.windows import LiveWindow, Window
from reheatd.jobs.contracts import Job, JobStatus, RLRequest
from tests.loop_probe import get, watched_loop
from tests.unit.api_support import ApiWorld
from tests.unit.control_figures import entropy, window
from tests.unit.control_support import live as live_world

COUNT = 5000
SHARE = 0.05
"""Largest share of what an answer takes at once that one turn of the loop may take."""


async def answered(app: Starlette, path: str) -> tuple[bytes, float]:
    """The answer's body, and the processor time of the longest turn of the loop meanwhile, in seconds."""
    # The garbage of other tests would be looked through in the middle.
    gc.collect()
    async with watched_loop() as probe:
        parts = await get(app, path)
    return b"".join(parts), probe.cpu_seconds


def took(work: Callable[[], Any]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def in_world(folder: Path, story: Callable[[ApiWorld], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        world = ApiWorld(folder)
        async with world:
            await story(world)

    asyncio.run(run())


def test_windows_of_the_probes(tmp_path: Path) -> None:
    async def story(world: ApiWorld) -> None:
        text = window(0, "ok", 1.9).model_dump_json()
        with world.db:
            world.db.executemany(
                "INSERT INTO entropy_windows (time, version, key, window) VALUES (?, 0, ?, ?)",
                [(float(number), world.series.key, text) for number in range(COUNT)],
            )
            world.db.execute("UPDATE entropy_windows SET window = '{' WHERE id = 7")
        content, longest_s = await answered(world.app(), f"/reheatd/v1/entropy?last={COUNT}")
        assert len(EntropyView.model_validate_json(content).windows) == COUNT - 1
        assert longest_s < SHARE * took(lambda: [Window.model_validate_json(text) for _ in range(COUNT)])

    in_world(tmp_path, story)


@pytest.mark.parametrize("source", ["", "&source=live"])
def test_windows_of_traffic(source: str, tmp_path: Path) -> None:
    made = LiveWindow(version="policy-v0", source="live", measured_by="tap", estimate=entropy(1.9), by_position=[])
    text = made.model_dump_json()

    async def story(world: ApiWorld) -> None:
        with world.db:
            world.db.executemany(
                "INSERT INTO live_windows (time, version, source, window) VALUES (?, 'policy-v0', ?, ?)",
                [(float(number), "probe" if number < 3 else "live", text) for number in range(COUNT)],
            )
        content, longest_s = await answered(world.app(), f"/reheatd/v1/entropy/live?last={COUNT}{source}")
        assert len(LiveView.model_validate_json(content).windows) == COUNT - (3 if source else 0)
        assert longest_s < SHARE * took(lambda: [LiveWindow.model_validate_json(text) for _ in range(COUNT)])

    # The table is there only once the app was built.
    async def with_table(world: ApiWorld) -> None:
        world.app()
        await story(world)

    in_world(tmp_path, with_table)


def test_jobs_and_journal(tmp_path: Path) -> None:
    async def story(world: ApiWorld) -> None:
        record = world.ledger.create(RLRequest(), "manual", JobStatus.CANCELLED, 0)
        record.job.error = "x" * 2000
        world.ledger.save(record)
        row = world.db.execute("SELECT * FROM jobs").fetchone()
        with world.db:
            world.db.executemany(
                "INSERT INTO jobs (job_id, status, trigger, record) VALUES (?, 'cancelled', 'manual', ?)",
                [(f"rl-{number}", row["record"]) for number in range(1000)],
            )
            world.db.executemany(
                "INSERT INTO journal (time, event, from_state, to_state, reason) "
                "VALUES (?, 'resumed', 'serving', 'serving', 'by request')",
                [(float(number),) for number in range(COUNT)],
            )
        content, longest_s = await answered(world.app(), "/reheatd/v1/jobs")
        jobs = JobList.model_validate_json(content).jobs
        assert jobs[0] == record.job and len(jobs) == 1001
        assert longest_s < 0.3 * took(lambda: world.ledger.jobs.all())
        content, longest_s = await answered(world.app(), f"/reheatd/v1/journal?last={COUNT - 10}")
        entries = JournalView.model_validate_json(content).entries
        assert entries == world.ledger.entries(COUNT - 10)
        assert longest_s < 0.3 * took(lambda: world.ledger.entries(COUNT))

    in_world(tmp_path, story)


def test_a_stored_job_reads_the_same_in_parts_and_whole(tmp_path: Path) -> None:
    async def story(world: Any) -> None:
        for number in range(12):
            world.ledger.create(RLRequest(seed=number), "manual", JobStatus.CANCELLED, 0)
        parts = [part async for part in world.ledger.jobs.stream()]
        assert [Job.model_validate_json(text) for part in parts for text in part] == world.ledger.jobs.all()
        assert len(parts) > 2

    from tests.unit.control_support import World

    live_world(World(tmp_path), story)
