"""Continuous RL: rounds that follow each other unattended, and when they stop."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from reheatd.control.states import State
from reheatd.jobs.contracts import JobEvent, JobStatus, ReheatSpec, RLRequest, RLSpec, TrainingSpec
from tests.unit.control_figures import accuracy, entropy
from tests.unit.control_support import World, live

pytestmark = pytest.mark.usefixtures("impatient")


def continuous(folder: Path, **control: Any) -> World:
    return World(folder, control={"rl": "continuous", "cooldown_s": 0, **control})


async def next_round(world: World, number: int) -> RLSpec:
    """The job that is submitted as the `number`th, which is a round of RL."""
    spec = await world.until_submitted(number)
    assert isinstance(spec, RLSpec) and world.controller.job(spec.job_id).trigger == "round"
    return spec


async def fail(world: World, spec: TrainingSpec, error: str) -> None:
    await world.dispatcher.report(spec.job_id, JobEvent(kind="failed", error=error))
    await world.until_status(spec.job_id, JobStatus.FAILED)


async def stays_idle(world: World, submitted: int) -> None:
    """Lets the loop turn, and checks that it begins nothing."""
    await asyncio.sleep(0.05)
    assert len(world.dispatcher.submitted) == submitted and not world.controller.waiting()


def test_three_rounds_with_a_reheat_in_between(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await stays_idle(world, 0)  # the policy has not been measured yet
        world.see("ok", 1.9)
        await world.train(await next_round(world, 1))
        second = await next_round(world, 2)
        assert second.parent_version == 1 and second.steps == world.settings.rl.steps
        world.monitor.entropies["policy-v2"] = entropy(0.1)
        world.monitor.verdict = "collapsed"  # at the gates
        await world.train(second)
        await world.until(lambda: world.swaps.promoted == 2)
        world.see("collapsed", 0.7)
        reheat = await world.until_submitted(3)
        assert isinstance(reheat, ReheatSpec) and reheat.parent_version == 2
        await world.train(reheat)
        await world.until_status(reheat.job_id, JobStatus.SUCCEEDED)
        world.see("ok", 1.9)
        third = await next_round(world, 4)
        assert third.parent_version == 3
        await world.train(third)
        await next_round(world, 5)
        assert world.promotions() == [1, 2, 3, 4]
        assert [trigger for trigger, _, _ in world.jobs()] == ["round", "round", "collapse", "round", "round"]

    live(continuous(tmp_path), story)


@pytest.mark.parametrize("mode", ["observe", "approve"])
def test_a_round_that_collapses_is_rejected_where_nothing_answers_it(tmp_path: Path, mode: str) -> None:
    async def story(world: World) -> None:
        world.see("ok", 1.9)
        first = await next_round(world, 1)
        world.monitor.entropies["policy-v1"] = entropy(0.1)
        await world.train(first)
        job = await world.until_status(first.job_id, JobStatus.REJECTED)
        assert "must keep" in (job.error or "")

    live(continuous(tmp_path, mode=mode), story)


def test_users_jobs_go_first(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("ok", 1.9)
        first = await next_round(world, 1)
        job = world.controller.submit(RLRequest(steps=3))
        await world.train(first)
        asked = await world.until_submitted(2)
        assert asked.job_id == job.job_id
        await world.train(asked, accuracy_before=accuracy(0), accuracy_after=accuracy(0))
        await world.until_status(job.job_id, JobStatus.AWAITING_APPROVAL)
        await asyncio.sleep(0.05)  # a round would overtake the version that waits
        assert len(world.dispatcher.submitted) == 2
        world.controller.approve(job.job_id)
        assert (await next_round(world, 3)).parent_version == 2

    live(continuous(tmp_path), story)


@pytest.mark.parametrize("verdict", ["collapsed", "stalled", "too_hot"])
def test_no_round_begins_from_a_policy_that_is_not_healthy(tmp_path: Path, verdict: Any) -> None:
    async def story(world: World) -> None:
        world.see(verdict, 0.7)
        await stays_idle(world, 0)
        world.monitor.is_undecided = True
        world.see("warning", 1.1)
        await stays_idle(world, 0)
        world.monitor.is_undecided = False
        world.see("warning", 1.1)
        await next_round(world, 1)

    live(continuous(tmp_path, mode="observe"), story)


def test_a_failed_round_is_repeated_after_the_cooldown(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("ok", 1.9)
        failed = await next_round(world, 1)
        await fail(world, failed, "out of memory")
        again = await next_round(world, 2)
        ended = world.controller.job(failed.job_id).finished_at
        assert ended is not None and world.controller.job(again.job_id).created_at - ended >= 0.3

    live(continuous(tmp_path, cooldown_s=0.3), story)


def test_two_rounds_that_end_in_the_same_way_pause_until_somebody_resumes(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("ok", 1.9)
        first = await next_round(world, 1)
        await fail(world, first, f"{first.job_id} ran out of memory at step 3")
        second = await next_round(world, 2)
        await fail(world, second, f"{second.job_id} ran out of memory at step 7")
        await stays_idle(world, 2)
        await world.restart()
        world.see("ok", 1.9)
        await stays_idle(world, 2)
        (pause,) = world.controller.pauses
        assert pause.what == "rounds" and "out of memory at step 7" in pause.why
        assert world.controller.resume() == [pause] and world.controller.resume() == []
        await fail(world, await next_round(world, 3), "ran out of memory at step 3")
        assert not world.controller.pauses  # the count began anew

    live(continuous(tmp_path), story)


def test_rounds_that_end_differently_go_on(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("ok", 1.9)
        for number, error in enumerate(("out of memory", "the engine is away", "out of memory"), start=1):
            await fail(world, await next_round(world, number), error)
        await next_round(world, 4)

    live(continuous(tmp_path), story)


def test_rounds_without_signal_pause_even_if_they_brought_a_version(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("ok", 1.9)
        await world.train(await next_round(world, 1), stopped="no_signal")
        await world.train(await next_round(world, 2), stopped="no_signal")
        await world.until(lambda: world.swaps.promoted == 2)
        await stays_idle(world, 2)
        assert "taught nothing" in world.controller.pauses[0].why

    live(continuous(tmp_path), story)


def test_a_reheat_between_two_failed_rounds_begins_the_count_anew(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("ok", 1.9)
        await world.train(await next_round(world, 1), stopped="no_signal")
        second = await next_round(world, 2)
        world.monitor.verdict = "stalled"
        await world.train(second, stopped="no_signal")
        await world.until_status(second.job_id, JobStatus.SUCCEEDED)
        world.see("stalled", 1.2)
        assert world.controller.pauses
        world.monitor.entropies["policy-v2"] = entropy(1.2)
        await world.train(await world.until_submitted(3))
        await world.until(lambda: world.swaps.promoted == 3)
        world.see("ok", 1.9)
        await next_round(world, 4)

    live(continuous(tmp_path, trigger=["stalled"]), story)


def test_a_round_that_changed_nothing_is_rejected(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("ok", 1.9)
        await world.train(await next_round(world, 1))
        spec = await next_round(world, 2)
        result = world.result(spec)
        assert spec.parent_adapter is not None
        weights = (spec.parent_adapter / "adapter_model.safetensors").read_bytes()
        (result.adapter_dir / "adapter_model.safetensors").write_bytes(weights)
        await world.dispatcher.report(spec.job_id, JobEvent(kind="succeeded", result=result))
        job = await world.until_status(spec.job_id, JobStatus.REJECTED)
        assert [(gate.name, gate.outcome) for gate in job.gates] == [("change", "failed")]
        assert "equal to that of policy-v1" in (job.error or "") and world.store.versions() == [0, 1]
        assert world.controller.state in (State.SERVING, State.CONTINUING_RL)

    live(continuous(tmp_path), story)
