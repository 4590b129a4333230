"""Which verdicts act, how each is answered, and when the daemon stops answering."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from reheatd.control.states import State
from reheatd.jobs.contracts import JobEvent, JobStatus, ReheatRequest, ReheatSpec, RLRequest
from tests.unit.control_figures import entropy
from tests.unit.control_support import World, finish_one, live

pytestmark = pytest.mark.usefixtures("impatient")

STEP = {"groups": 4.0, "groups_varied": 0.0, "groups_all_fail": 4.0, "groups_all_pass": 0.0, "reward": 0.0}


def eager(folder: Path, **control: Any) -> World:
    return World(folder, control={"rl": "off", "cooldown_s": 0, **control})


@pytest.mark.parametrize("verdict", ["collapsed", "stalled", "too_hot"])
def test_a_verdict_that_is_no_trigger_is_shown_and_not_answered(tmp_path: Path, verdict: Any) -> None:
    others = [name for name in ("collapsed", "stalled", "too_hot") if name != verdict]

    async def story(world: World) -> None:
        world.see(verdict, 0.7)
        await asyncio.sleep(0.05)
        assert world.controller.state.value == verdict and not world.jobs()
        world.see("ok", 1.9)
        assert world.states() == ["serving", verdict, "serving"]

    live(eager(tmp_path, trigger=others), story)


def test_a_stalled_policy_is_reheated_to_one_and_a_half_times_its_entropy(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.entropies["base"] = entropy(1.2)
        world.see("stalled", 1.2)
        spec = await world.until_submitted()
        assert isinstance(spec, ReheatSpec) and spec.target_entropy == pytest.approx(1.8)
        assert world.controller.job(spec.job_id).trigger == "stall"
        assert world.states()[:3] == ["serving", "stalled", "reheating"]

    live(eager(tmp_path, trigger=["stalled"]), story)


def test_a_policy_that_runs_away_is_cooled_to_where_a_reheat_would_lead(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("too_hot", 7.0)
        spec = await world.until_submitted()
        assert isinstance(spec, ReheatSpec) and spec.tau is not None and spec.tau < 1
        assert spec.target_entropy == pytest.approx(world.monitor.thresholds.target)
        await world.train(spec, entropy_before=entropy(7.0))
        await world.until_status(spec.job_id, JobStatus.SUCCEEDED)
        lineage = world.store.get(1).lineage
        assert lineage is not None and lineage.kind == "cool"

    live(eager(tmp_path, trigger=["too_hot"]), story)


def test_what_waits_to_answer_one_verdict_is_withdrawn_for_another(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        await world.until(world.jobs)
        world.see("stalled", 1.2)
        await world.until(lambda: len(world.jobs()) == 2)
        assert [(trigger, status) for trigger, status, _ in world.jobs()] == [
            ("collapse", "cancelled"),
            ("stall", "awaiting_approval"),
        ]

    live(eager(tmp_path, mode="approve", trigger=["collapsed", "stalled"]), story)


async def reject(world: World, submitted: int) -> str:
    """Lets a reheat be rejected at the entropy gate; its id."""
    spec = await world.until_submitted(submitted)
    world.monitor.entropies[f"policy-v{max(world.store.versions()) + 1}"] = entropy(0.3)
    await world.train(spec)
    await world.until_status(spec.job_id, JobStatus.REJECTED)
    return spec.job_id


def test_reheats_that_are_rejected_twice_in_the_same_way_pause_until_somebody_resumes(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        jobs = [await reject(world, 1), await reject(world, 2)]
        await world.until(lambda: world.controller.pauses)
        await world.restart()
        world.see("collapsed", 0.7)
        await asyncio.sleep(0.05)
        assert len(world.dispatcher.submitted) == 2
        (pause,) = world.controller.pauses
        assert pause.what == "reheats" and all(job_id in pause.why for job_id in jobs) and "gate entropy" in pause.why
        world.controller.resume()
        await world.until_submitted(3)
        assert not world.controller.pauses
        assert world.ledger.entries(9)[-2].event == "resumed"

    live(eager(tmp_path), story)


def test_somebody_resumes_after_the_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an hour, so that by the clock the jobs that failed end in the future."""

    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        await reject(world, 1)
        await reject(world, 2)
        await world.until(lambda: world.controller.pauses)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - 3600)
        world.controller.resume()
        await reject(world, 3)
        assert not world.controller.pauses
        await reject(world, 4)
        await world.until(lambda: world.controller.pauses)

    live(eager(tmp_path), story)


def test_a_reheat_by_hand_that_succeeds_ends_the_pause(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        await reject(world, 1)
        await reject(world, 2)
        await world.until(lambda: world.controller.pauses)
        by_hand = world.controller.submit(ReheatRequest())
        await world.until_submitted(3)
        await world.dispatcher.report(by_hand.job_id, JobEvent(kind="failed", error="out of memory"))
        await world.until_status(by_hand.job_id, JobStatus.FAILED)
        assert world.controller.pauses  # one that fails changes nothing
        await finish_one(world, ReheatRequest())
        assert not world.controller.pauses

    live(eager(tmp_path), story)


def test_the_steps_of_rl_jobs_are_kept_and_survive_a_restart(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(RLRequest(steps=30))
        spec = await world.until_submitted()
        for step in range(1, 21):
            event = JobEvent(kind="progress", phase="training", step=step, steps=30, metrics=STEP)
            await world.dispatcher.report(job.job_id, event)
        await world.until(lambda: world.controller.job(job.job_id).step == 20)
        await world.restart()
        assert world.learning.is_stalled(0) and world.learning.last(99, 0)[-1].number == 20
        await world.train(spec)
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        assert world.learning.is_stalled(1)
        world.monitor.entropies["policy-v1"] = entropy(1.2)
        world.see("stalled", 1.2)
        reheat = await world.until_submitted(2)
        await world.train(reheat)
        await world.until_status(reheat.job_id, JobStatus.SUCCEEDED)
        assert not world.learning.is_stalled(2) and not world.learning.last(99, 2)
        assert world.controller.state is State.SERVING

    live(eager(tmp_path, trigger=["stalled"]), story)
