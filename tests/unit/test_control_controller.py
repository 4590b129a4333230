"""The control loop: from collapse to a new version, what users may ask for, and every way it can go wrong."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from reheatd.control import training, waiting
from reheatd.control.machine import State
from reheatd.errors import (
    AdapterInvalidError,
    BadInputError,
    ConflictError,
    DeliveryError,
    EngineError,
    NotFoundError,
    QueueFullError,
    WorkerLostError,
)
from reheatd.jobs.contracts import Job, JobEvent, JobRequest, JobStatus, ReheatSpec
from tests.unit.control_support import BASELINE, World, accuracy, entropy

REHEAT = JobRequest(kind="reheat", tau=1.5)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_S", 0.01)
    monkeypatch.setattr(training, "WORKER_CHECK_S", 0.01)
    monkeypatch.setattr(training, "CANCEL_GRACE_S", 0.1)


def live(world: World, story: Callable[[World], Coroutine[Any, Any, None]]) -> World:
    async def run() -> None:
        async with world:
            await story(world)

    asyncio.run(run())
    return world


async def finish_one(world: World, request: JobRequest = REHEAT) -> str:
    """A user's job that goes well; its id."""
    job = world.controller.submit(request)
    await world.train(await world.until_submitted(len(world.dispatcher.submitted) + 1))
    await world.until_status(job.job_id, JobStatus.SUCCEEDED)
    return job.job_id


def test_a_collapse_is_reheated_and_rl_continues(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("ok", 1.9)
        world.see("collapsed", 0.7)
        spec = await world.until_submitted()
        assert isinstance(spec, ReheatSpec)
        assert spec.target_entropy == pytest.approx(0.85 * BASELINE)
        await world.train(spec)
        follow_up = await world.until_submitted(2)
        assert (follow_up.kind, follow_up.parent_version) == ("rl", 1)
        world.monitor.verdict = "ok"
        await world.train(follow_up)
        await world.until(lambda: world.swaps.promoted == 2 and world.controller.state is State.SERVING)
        assert world.states() == [
            "serving", "collapsed", "reheating", "gating", "swapping", "continuing_rl", "gating", "swapping", "serving",
        ]  # fmt: skip
        assert world.promotions() == [1, 2]
        assert [(trigger, status) for trigger, status, _ in world.jobs()] == [
            ("collapse", "succeeded"),
            ("follow_up", "succeeded"),
        ]
        lineage = world.store.get(1).lineage
        assert lineage is not None
        assert (lineage.kind, lineage.parent, lineage.job_id) == ("reheat", 0, spec.job_id)
        assert [gate["name"] for gate in world.controller.job(spec.job_id).gates] == ["entropy", "accuracy", "delivery"]
        assert world.monitor.triggered == 2

    live(World(tmp_path), story)


def test_the_journal_times_detection_dispatch_and_swap(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        began = time.time()
        world.see("collapsed", 0.7)
        await world.train(await world.until_submitted())
        await world.until(lambda: world.swaps.promoted == 1)
        entries = world.ledger.journal.last(100)
        moments = [
            next(entry.time for entry in entries if entry.to_state == "collapsed"),
            next(entry.time for entry in entries if entry.to_state == "reheating"),
            next(entry.time for entry in entries if entry.event == "promoted" and entry.version == 1),
        ]
        assert began <= moments[0] <= moments[1] <= moments[2]

    live(World(tmp_path, control={"continue_rl": False}), story)


def test_observing_leaves_a_collapse_alone_until_it_recovers(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        world.see("collapsed", 0.7)
        await asyncio.sleep(0.05)
        assert world.controller.state is State.COLLAPSED and not world.jobs()
        world.see("warning", 1.3)
        assert world.states() == ["serving", "collapsed", "serving"]

    live(World(tmp_path, control={"mode": "observe"}), story)


def test_approval_is_asked_for_and_withdrawn_when_the_policy_recovers(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        await world.until(world.jobs)
        world.see("collapsed", 0.7)
        await asyncio.sleep(0.02)
        assert [(trigger, status) for trigger, status, _ in world.jobs()] == [("collapse", "awaiting_approval")]
        world.see("ok", 1.9)
        assert world.jobs()[0][1] == "cancelled"
        with pytest.raises(ConflictError, match="cancelled"):
            world.controller.approve(world.ledger.jobs.all()[0].job_id)
        assert not world.dispatcher.submitted

    live(World(tmp_path, control={"mode": "approve"}), story)


def test_an_approved_job_runs(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        await world.until(world.jobs)
        job = world.controller.waiting()[0]
        world.controller.approve(job.job_id)
        await world.train(await world.until_submitted())
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)

    live(World(tmp_path, control={"mode": "approve", "continue_rl": False}), story)


def test_a_failed_reheat_is_tried_again_only_after_the_cooldown(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        spec = await world.until_submitted()
        await world.dispatcher.report(spec.job_id, JobEvent(kind="failed", error="out of memory"))
        job = await world.until_status(spec.job_id, JobStatus.FAILED)
        assert job.error == "out of memory"
        assert world.controller.state is State.COLLAPSED
        assert 0 < world.controller.cooldown_remaining_s <= 0.4
        world.see("collapsed", 0.7)
        await asyncio.sleep(0.05)
        assert len(world.dispatcher.submitted) == 1
        await world.until_submitted(2)
        assert job.finished_at is not None and time.time() - job.finished_at >= 0.4
        assert "out of memory" in next(e.reason for e in world.ledger.journal.last(99) if e.from_state == "reheating")

    live(World(tmp_path, control={"cooldown_s": 0.4}), story)


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


def test_manual_jobs_run_in_order_one_at_a_time_without_follow_up(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first, second = world.controller.submit(REHEAT), world.controller.submit(JobRequest(kind="rl"))
        spec = await world.until_submitted()
        await asyncio.sleep(0.02)
        assert spec.job_id == first.job_id and len(world.dispatcher.submitted) == 1
        assert [job.job_id for job in world.controller.waiting()] == [second.job_id]
        await world.train(spec)
        following = await world.until_submitted(2)
        assert (following.job_id, following.parent_version) == (second.job_id, 1)
        await world.train(following)
        await world.until_status(second.job_id, JobStatus.SUCCEEDED)
        assert world.promotions() == [1, 2] and len(world.jobs()) == 2

    live(World(tmp_path), story)


def test_a_full_queue_refuses_and_says_so(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.controller.submit(REHEAT)
        await world.until_submitted()
        world.controller.submit(REHEAT)
        world.controller.submit(REHEAT)
        with pytest.raises(QueueFullError, match=r"control\.max_queued"):
            world.controller.submit(REHEAT)

    live(World(tmp_path, control={"max_queued": 2}), story)


def test_a_senseless_request_is_refused_before_it_is_queued(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        with pytest.raises(BadInputError, match="tau"):
            world.controller.submit(JobRequest(kind="reheat", tau=1.0))
        assert not world.jobs()

    live(World(tmp_path), story)


def test_cooling_by_hand_is_an_ordinary_job(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.entropies["policy-v1"] = entropy(0.7)
        await finish_one(world, JobRequest(kind="reheat", tau=0.5, target_ratio=0.35))
        lineage = world.store.get(1).lineage
        assert lineage is not None and lineage.kind == "cool" and lineage.target_entropy == pytest.approx(0.7)

    live(World(tmp_path), story)


@pytest.mark.parametrize("gate", ["entropy", "accuracy", "delivery", "validation"])
def test_a_failed_gate_keeps_the_old_version(tmp_path: Path, gate: str) -> None:
    async def story(world: World) -> None:
        await finish_one(world)
        job = world.controller.submit(JobRequest(kind="reheat", target_ratio=0.85))
        spec = await world.until_submitted(2)
        result: dict[str, Any] = {}
        if gate == "entropy":
            world.monitor.entropies["policy-v2"] = entropy(1.1)
        elif gate == "accuracy":
            result["accuracy_after"] = accuracy(10)
        elif gate == "delivery":
            world.swaps.failures = [DeliveryError("what answers is not what was trained")]
        else:
            world.invalid = AdapterInvalidError("layer 0 has values that are not finite")
        await world.train(spec, **result)
        rejected = await world.until_status(job.job_id, JobStatus.REJECTED)
        assert rejected.gates[-1 if gate != "entropy" else 0]["name"] == gate
        assert [entry["passed"] for entry in rejected.gates if entry["name"] == gate] == [False]
        assert rejected.error
        assert world.swaps.promoted == 1 and world.promotions() == [1]
        assert world.controller.state is State.SERVING
        await world.until(lambda: not world.swaps.staged)
        if gate != "validation":
            assert world.store.get(2).state == "rejected"

    live(World(tmp_path), story)


def test_rl_that_destroys_entropy_is_rejected(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.entropies["policy-v1"] = entropy(0.4 * BASELINE)
        job = world.controller.submit(JobRequest(kind="rl"))
        await world.train(await world.until_submitted())
        assert "must keep" in ((await world.until_status(job.job_id, JobStatus.REJECTED)).error or "")

    live(World(tmp_path), story)


def lost(job: Job) -> WorkerLostError:
    return WorkerLostError(f"the worker of job {job.job_id} has been silent for 120 s")


def test_a_job_whose_worker_dies_is_resumed_by_another(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        folder = spec.output_dir / "rollout-1"
        folder.mkdir(parents=True)
        await world.dispatcher.report(job.job_id, JobEvent(kind="started"))
        await world.until(lambda: world.controller.job(job.job_id).started_at)
        first = await world.controller.load_rollout_adapter(job.job_id, folder, 1)
        spec.checkpoint_file.write_bytes(b"half way")
        await world.dispatcher.report(job.job_id, lost(job))
        again = await world.until_submitted(2)
        assert again == spec and world.dispatcher.attempts == [1, 2]
        assert world.dispatcher.terminated == [job.job_id]
        assert not world.slots.adapters and not folder.exists()
        assert spec.checkpoint_file.read_bytes() == b"half way"
        folder.mkdir()
        assert await world.controller.load_rollout_adapter(job.job_id, folder, 1) != first
        await world.train(again)
        done = await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        assert done.attempt == 2
        await world.until(lambda: not spec.checkpoint_file.exists())

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


def test_cancelling_wins_over_resuming(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        await world.until_submitted()
        await world.dispatcher.report(job.job_id, JobEvent(kind="started"))
        await world.until(lambda: world.controller.job(job.job_id).started_at)
        world.controller.cancel(job.job_id)
        await world.dispatcher.report(job.job_id, lost(job))
        await world.until_status(job.job_id, JobStatus.CANCELLED)
        assert world.dispatcher.attempts == [1]

    live(World(tmp_path), story)


def test_a_job_that_loses_every_worker_fails(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        for attempt in (1, 2, 3):
            await world.until_submitted(attempt)
            await world.dispatcher.report(job.job_id, JobEvent(kind="started"), lost(job))
        failed = await world.until_status(job.job_id, JobStatus.FAILED)
        assert "silent" in (failed.error or "")
        # Should it still live somewhere, it is told to stop.
        await world.until(lambda: job.job_id in world.dispatcher.cancelled)
        assert world.states() == ["serving", "reheating", "serving"]

    live(World(tmp_path), story)


def test_a_job_says_that_no_worker_is_there_and_runs_when_one_comes(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.dispatcher.workers = 0
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        await world.until(lambda: "reheatd worker" in world.controller.job(job.job_id).phase)
        world.dispatcher.workers = 1
        await world.until(lambda: world.controller.job(job.job_id).phase == "waiting for a worker")
        await world.dispatcher.report(
            job.job_id,
            JobEvent(kind="started"),
            JobEvent(kind="progress", phase="training", step=2, steps=9, metrics={"loss": 0.5}),
        )
        running = await world.until(lambda: world.controller.job(job.job_id).step == 2 and world.controller.current_job)
        assert (running.phase, running.steps, running.metrics) == ("training", 9, {"loss": 0.5})
        await world.train(spec)

    live(World(tmp_path), story)


def test_a_broken_engine_is_waited_for(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.failures = [EngineError("connection refused"), NotFoundError("policy-v1 is not loaded")]
        world.swaps.failures = [EngineError("connection refused")]
        world.dispatcher.failures = [EngineError("broker is away")]
        await finish_one(world)
        assert world.swaps.promoted == 1

    live(World(tmp_path), story)


def test_an_engine_that_stays_away_fails_the_job(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.failures = [EngineError("connection refused")] * 1000
        job = world.controller.submit(REHEAT)
        await world.train(await world.until_submitted())
        assert (await world.until_status(job.job_id, JobStatus.FAILED)).error == "connection refused"
        assert world.controller.state is State.SERVING

    live(World(tmp_path, engine={"startup_timeout_s": 0.1}), story)


def test_trouble_after_the_flip_does_not_undo_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.swaps.failures_after_flip = [EngineError("policy-v0 could not be unloaded")]
        await finish_one(world)
        assert world.promotions() == [1]

    live(World(tmp_path), story)


@pytest.mark.parametrize("status", list(JobStatus)[:5])
def test_cancelling_works_in_every_status(tmp_path: Path, status: JobStatus) -> None:
    async def story(world: World) -> None:
        if status is JobStatus.AWAITING_APPROVAL:
            world.see("collapsed", 0.7)
            await world.until(world.jobs)
            job = world.controller.waiting()[0]
            world.controller.cancel(job.job_id)
        elif status is JobStatus.QUEUED:
            world.controller.submit(REHEAT)
            job = world.controller.submit(REHEAT)
            await world.until_submitted()
            world.controller.cancel(job.job_id)
            assert world.controller.state is State.REHEATING
        else:
            job = world.controller.submit(REHEAT)
            spec = await world.until_submitted()
            if status is JobStatus.RUNNING:
                await world.dispatcher.report(job.job_id, JobEvent(kind="started"))
                await world.until(lambda: world.controller.job(job.job_id).started_at)
                world.controller.cancel(job.job_id)
                assert world.controller.job(job.job_id).phase == "cancelling"
                await world.until(lambda: job.job_id in world.dispatcher.cancelled)
                await world.dispatcher.report(job.job_id, JobEvent(kind="cancelled"))
            elif status is JobStatus.GATING:
                world.monitor.gate.clear()
                await world.train(spec)
                await world.monitor.measuring.wait()
                world.controller.cancel(job.job_id)
            else:

                async def cancel() -> None:
                    world.controller.cancel(job.job_id)

                world.swaps.before_flip = cancel
                await world.train(spec)
        assert (await world.until_status(job.job_id, JobStatus.CANCELLED)).finished_at
        assert world.swaps.promoted == 0
        with pytest.raises(ConflictError, match="over already"):
            world.controller.cancel(job.job_id)
        await world.until(lambda: not world.swaps.staged)
        if status in (JobStatus.GATING, JobStatus.SWAPPING):
            assert world.store.get(1).state == "rejected"
            assert world.promotions() == ([1, 0] if status is JobStatus.SWAPPING else [])
        if status not in (JobStatus.AWAITING_APPROVAL, JobStatus.QUEUED):
            assert world.controller.state is State.SERVING

    live(World(tmp_path, control={"mode": "approve"}), story)


def test_a_worker_that_ignores_cancellation_is_terminated(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        await world.until_submitted()
        await world.dispatcher.report(job.job_id, JobEvent(kind="started"))
        await world.until(lambda: world.controller.job(job.job_id).started_at)
        world.controller.cancel(job.job_id)
        await world.until_status(job.job_id, JobStatus.CANCELLED)
        assert world.dispatcher.terminated == [job.job_id]

    live(World(tmp_path), story)


def test_a_cancelled_follow_up_goes_back_to_serving(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        await world.train(await world.until_submitted())
        follow_up = await world.until_submitted(2)
        world.monitor.verdict = "ok"
        world.controller.cancel(follow_up.job_id)
        await world.until_status(follow_up.job_id, JobStatus.CANCELLED)
        assert world.controller.state is State.SERVING and world.swaps.promoted == 1

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


def test_a_job_that_never_reached_the_broker_is_submitted_after_a_restart(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.dispatcher.failures = [EngineError("broker is away")] * 5
        job = world.controller.submit(REHEAT)
        await world.until(lambda: world.controller.job(job.job_id).status is JobStatus.RUNNING)
        await world.restart()
        assert (await world.until_submitted()).job_id == job.job_id

    live(World(tmp_path), story)


def test_what_a_user_promotes_meanwhile_is_not_overruled(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await finish_one(world)
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted(2)
        await world.controller.rollback()
        await world.train(spec)
        rejected = await world.until_status(job.job_id, JobStatus.REJECTED)
        assert "policy-v0 was promoted meanwhile" in (rejected.error or "")
        assert world.swaps.promoted == 0
        await world.controller.promote(2)
        assert world.promotions() == [1, 0, 2]

    live(World(tmp_path), story)


def test_a_rollback_ends_a_collapse(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await finish_one(world)
        world.see("collapsed", 0.7)
        report = await world.controller.rollback()
        world.monitor.verdict = None
        assert (report.from_version, report.to_version) == (1, 0)
        assert world.controller.state is State.SERVING
        assert world.monitor.triggered == 2
        with pytest.raises(NotFoundError):
            await world.controller.promote(9)

    live(World(tmp_path, control={"mode": "observe"}), story)


def test_rollout_adapters_live_as_long_as_their_job(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        paths = [spec.output_dir / f"rollout-{step}" for step in range(3)]
        for path in paths:
            path.mkdir()
        names = [await world.controller.load_rollout_adapter(job.job_id, paths[step], step) for step in range(2)]
        assert list(world.slots.adapters) == [names[1]] == [f"job-{job.job_id}.1-1"]

        await world.restart()
        assert not world.slots.adapters
        await world.until(lambda: world.slots.adapters == {names[1]: paths[1]})
        world.slots.busy = {names[1]}
        await world.controller.load_rollout_adapter(job.job_id, paths[2], 2)
        assert len(world.slots.adapters) == 2
        world.slots.busy = set()

        await world.train(spec)
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        assert not world.slots.adapters and not any(path.exists() for path in paths)
        with pytest.raises(ConflictError, match="not running"):
            await world.controller.load_rollout_adapter(job.job_id, paths[0], 0)

    live(World(tmp_path), story)


@pytest.mark.parametrize("outside", ["..", "../other/rollout-0", "rollout-0/../..", "/etc", "rollout-9", "."])
def test_rollout_adapters_come_from_the_jobs_own_folder(tmp_path: Path, outside: str) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        (spec.output_dir / "rollout-0").mkdir()
        with pytest.raises(BadInputError):
            await world.controller.load_rollout_adapter(job.job_id, spec.output_dir / outside, 0)
        world.invalid = AdapterInvalidError("every update is zero")
        with pytest.raises(AdapterInvalidError):
            await world.controller.load_rollout_adapter(job.job_id, spec.output_dir / "rollout-0", 0)
        assert not world.slots.adapters

    live(World(tmp_path), story)


def test_a_bug_in_a_job_does_not_stop_the_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        done = JobEvent(kind="succeeded", result=world.result(spec, adapter_dir=tmp_path / "nowhere"))
        await world.dispatcher.report(spec.job_id, done)
        failed = await world.until_status(job.job_id, JobStatus.FAILED)
        assert "internal error" in (failed.error or "")
        await finish_one(world)

    live(World(tmp_path), story)
    assert "Traceback" in caplog.text
