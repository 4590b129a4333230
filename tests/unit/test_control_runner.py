"""A job's way through training, gates and swap, and every way it can go wrong."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from reheatd.control.states import State
from reheatd.database import StateError
from reheatd.entropy.windows import LiveWindow
from reheatd.errors import (
    AdapterInvalidError,
    BadInputError,
    ConflictError,
    DeliveryError,
    EngineError,
    JobWaitsError,
    NotFoundError,
)
from reheatd.jobs.contracts import JobEvent, JobStatus, ReheatRequest, RLRequest
from tests.unit.control_figures import BASELINE, accuracy, entropy
from tests.unit.control_support import REHEAT, World, finish_one, live, lost

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.parametrize("gate", ["entropy", "accuracy", "delivery", "validation"])
def test_a_failed_gate_keeps_the_old_version(tmp_path: Path, gate: str) -> None:
    async def story(world: World) -> None:
        await finish_one(world)
        job = world.controller.submit(ReheatRequest(target_ratio=0.85))
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
        assert rejected.gates[-1 if gate != "entropy" else 0].name == gate
        assert [entry.outcome for entry in rejected.gates if entry.name == gate] == ["failed"]
        assert rejected.error
        assert world.swaps.promoted == 1 and world.promotions() == [1]
        assert world.controller.state is State.SERVING
        await world.until(lambda: not world.swaps.staged)
        if gate != "validation":
            assert world.store.get(2).state == "rejected"

    live(World(tmp_path), story)


def test_a_reheat_that_waited_until_the_policy_was_healthy_is_not_run(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        second = world.controller.submit(REHEAT)
        world.monitor.entropies["policy-v1"] = entropy(0.9 * BASELINE)
        await world.train(spec)
        await world.until_status(first.job_id, JobStatus.SUCCEEDED)
        failed = await world.until_status(second.job_id, JobStatus.FAILED)
        assert "has not collapsed" in (failed.error or "") and "--force" in (failed.error or "")
        assert len(world.dispatcher.submitted) == 1

    live(World(tmp_path), story)


def test_rl_that_destroys_entropy_is_rejected(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.entropies["policy-v1"] = entropy(0.4 * BASELINE)
        job = world.controller.submit(RLRequest())
        await world.train(await world.until_submitted())
        assert "must keep" in ((await world.until_status(job.job_id, JobStatus.REJECTED)).error or "")

    live(World(tmp_path), story)


def test_the_entropy_of_a_job_s_rollouts_is_recorded_once(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(RLRequest())
        spec = await world.until_submitted()
        sampled = LiveWindow(
            version=spec.job_id,
            source="rollout",
            measured_by="monte_carlo",
            estimate=entropy(0.3),
            by_position=[],
            parent=0,
            step=1,
        )
        started = JobEvent(kind="started")
        await world.dispatcher.report(spec.job_id, started, JobEvent(kind="progress", step=1, rollouts=sampled))
        await world.until(lambda: world.rollouts == [sampled])
        await world.restart()
        await world.dispatcher.report(spec.job_id, JobEvent(kind="succeeded", result=world.result(spec)))
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        assert world.rollouts == [sampled]

    live(World(tmp_path), story)


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


def test_a_worker_is_told_to_wait_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller goes on with the job after a pause; until then, nothing is refused for good."""

    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        (spec.output_dir / "rollout-0").mkdir()

        def refuse(*_: object) -> None:
            raise StateError("database or disk is full")

        with monkeypatch.context() as full:
            full.setattr(world.ledger, "save", refuse)
            full.setattr("reheatd.control.controller.STATE_RETRY_S", 0.2)
            await world.dispatcher.report(job.job_id, JobEvent(kind="started"))
            with pytest.raises(JobWaitsError, match="goes on in a moment"):
                while True:
                    with contextlib.suppress(StateError):
                        await world.controller.load_rollout_adapter(job.job_id, spec.output_dir / "rollout-0", 0)
                    await asyncio.sleep(0.01)
        await world.train(spec)
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)

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
        result = world.result(spec)
        (result.adapter_dir / "adapter_config.json").unlink()
        await world.dispatcher.report(spec.job_id, JobEvent(kind="succeeded", result=result))
        failed = await world.until_status(job.job_id, JobStatus.FAILED)
        assert "internal error" in (failed.error or "")
        await finish_one(world)

    live(World(tmp_path), story)
    assert "Traceback" in caplog.text


def test_a_message_that_the_broker_lost_is_sent_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.dispatcher.loses_messages = 1
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted(2)
        assert world.dispatcher.attempts == [1, 1]
        await world.train(spec)
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)

    live(World(tmp_path), story)
