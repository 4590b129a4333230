"""A daemon that stops or crashes at any moment carries on where it was."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from reheatd.control.states import State
from reheatd.control.waiting import retry_while_unreachable
from reheatd.errors import EngineError
from reheatd.jobs.contracts import JobEvent, JobStatus
from tests.unit.control_support import REHEAT, World, finish_one, live, lost
from tests.waiting import HANGS_S

pytestmark = pytest.mark.usefixtures("impatient")


def test_the_cooldown_survives_a_restart(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        spec = await world.until_submitted()
        await world.dispatcher.report(spec.job_id, JobEvent(kind="failed", error="out of memory"))
        await world.until_status(spec.job_id, JobStatus.FAILED)
        await world.restart()
        world.see("collapsed", 0.7)
        await asyncio.sleep(0.05)
        assert len(world.dispatcher.submitted) == 1
        assert world.controller.cooldown_remaining_s > 500

    live(World(tmp_path), story)


def test_a_clock_that_is_set_back_does_not_make_the_cooldown_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        spec = await world.until_submitted()
        await world.dispatcher.report(spec.job_id, JobEvent(kind="failed", error="out of memory"))
        await world.until_status(spec.job_id, JobStatus.FAILED)
        a_day_ago = time.time() - 86400
        monkeypatch.setattr(time, "time", lambda: a_day_ago)
        assert world.controller.cooldown_remaining_s == 0
        world.see("collapsed", 0.7)
        await world.until_submitted(2)

    live(World(tmp_path), story)


def test_a_job_that_loses_its_worker_while_the_daemon_is_away_is_resumed(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        await world.until_submitted()
        await world.dispatcher.report(job.job_id, JobEvent(kind="started"))
        await world.until(lambda: world.controller.job(job.job_id).started_at)
        await world.restart()
        await world.dispatcher.report(job.job_id, lost(job))
        again = await world.until_submitted(2)
        await world.restart()  # before a worker has begun: it may have to be submitted again, as the same attempt
        await world.until_submitted(3)
        assert world.dispatcher.attempts == [1, 2, 2]
        await world.train(again)
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)

    live(World(tmp_path), story)


def test_a_restart_carries_on_in_every_step(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        queued = [world.controller.submit(REHEAT).job_id for _ in range(2)]
        spec = await world.until_submitted()
        await world.dispatcher.report(spec.job_id, JobEvent(kind="started"))
        await world.dispatcher.report(spec.job_id, JobEvent(kind="progress", phase="training", step=3, steps=9))
        await world.until(lambda: world.controller.job(spec.job_id).step == 3)

        await world.restart()  # while it trains
        world.monitor.gate.clear()
        assert world.controller.job(spec.job_id).status is JobStatus.RUNNING
        await world.dispatcher.report(spec.job_id, JobEvent(kind="succeeded", result=world.result(spec)))
        await world.monitor.measuring.wait()
        assert len(world.dispatcher.submitted) == 1

        await world.restart()  # while it is gated, its version published
        hold = asyncio.Event()
        reached = asyncio.Event()

        async def wait_before_flip() -> None:
            reached.set()
            await hold.wait()

        world.swaps.before_flip = wait_before_flip
        await reached.wait()
        assert world.controller.state is State.SWAPPING

        await world.restart()  # while it is swapped in
        await world.until_status(spec.job_id, JobStatus.SUCCEEDED)
        assert world.store.versions() == [0, 1] and world.promotions() == [1]
        second = await world.until_submitted(2)
        assert second.job_id == queued[1] and second.parent_version == 1

    live(World(tmp_path), story)


def test_a_crash_right_after_publishing_makes_no_second_version(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        world.monitor.gate.clear()
        await world.train(spec)
        await world.monitor.measuring.wait()
        record = world.ledger.jobs.get(job.job_id)
        record.job.version = None
        await world.crash()
        world._build()
        world.ledger.save(record)
        world.start()
        assert (await world.until_status(job.job_id, JobStatus.SUCCEEDED)).version == 1
        assert world.store.versions() == [0, 1]

    live(World(tmp_path), story)


def test_a_crash_right_after_the_flip_ends_in_success(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        reached = asyncio.Event()

        async def stop_before_flip() -> None:
            reached.set()
            await asyncio.Event().wait()

        world.swaps.before_flip = stop_before_flip
        await world.train(spec)
        await reached.wait()
        await world.crash()
        world._build()
        world.store.promote(1)
        world.start()
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        assert world.promotions() == [1] and world.controller.state is State.SERVING

    live(World(tmp_path), story)


def test_a_promotion_right_before_a_crash_is_in_the_journal_once(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        folder = tmp_path / "adapter"
        folder.mkdir()
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            (folder / name).write_text("{}")
        await world.store.publish(folder, parent=0, base_model="tiny", base_digest="0", kind="imported")
        await world.swaps.promote(1)  # by a user, and the daemon ends before it can record that
        for _ in range(2):
            await world.restart()
            promotions = [entry for entry in world.ledger.entries(10) if entry.event == "promoted"]
            assert [(entry.version, entry.reason) for entry in promotions] == [
                (1, "policy-v1 was promoted just before the daemon ended")
            ]

    live(World(tmp_path), story)


def test_a_job_that_never_reached_the_broker_is_submitted_after_a_restart(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.dispatcher.failures = [EngineError("broker is away")] * 5
        job = world.controller.submit(REHEAT)
        await world.until(lambda: world.controller.job(job.job_id).status is JobStatus.RUNNING)
        await world.restart()
        assert (await world.until_submitted()).job_id == job.job_id

    live(World(tmp_path), story)


def test_jobs_that_an_earlier_version_stored_are_read(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job_id = await finish_one(world)
        stored = json.loads(world.ledger.jobs.get(job_id).model_dump_json())
        old = {"value": 0.5, "low": 0.4, "high": 0.6, "problems": 48}
        for side in ("before", "after"):
            stored["result"][f"accuracy_{side}"] = old
            stored["result"][f"pass_at_k_{side}"] = None
        stored["spec"] |= {"parent_pass_at_k": None, "ceiling_ratio": 1.2, "max_entropy": None}
        stored["job"]["request"]["ceiling_ratio"] = 1.3
        stored["spec"]["task"] = {"eval_count": 24, "eval_samples": 0, "eval_max_tokens": 32}
        stored["job"]["gates"] = [{"name": "delivery", "passed": True, "detail": "proved"}]
        with world.db:
            world.db.execute("UPDATE jobs SET record = ?", (json.dumps(stored),))
        record = world.ledger.jobs.get(job_id)
        assert record.result is not None and record.result.accuracy_after.value == 0.5
        assert record.job.gates[0].outcome == "passed"

    live(World(tmp_path), story)


@pytest.mark.parametrize(("status", "tries"), [(None, 3), (503, 3), (400, 1)])
def test_an_engine_that_is_away_is_waited_for_and_one_that_refuses_is_not(status: int | None, tries: int) -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            error = EngineError("the model has no chat template")
            error.upstream_status = status
            raise error

    async def body() -> None:
        if status == 400:
            with pytest.raises(EngineError, match="no chat template"):
                await retry_while_unreachable(ask, HANGS_S)
        else:
            await retry_while_unreachable(ask, HANGS_S)
        assert asked == tries

    asyncio.run(body())
