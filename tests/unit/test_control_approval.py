"""A version on which a gate has no evidence waits until somebody decides, and holds up nothing meanwhile."""

from pathlib import Path

import pytest

from reheatd.control.states import State
from reheatd.errors import ConflictError
from reheatd.jobs.contracts import Job, JobStatus, RLRequest
from tests.unit.control_figures import accuracy, entropy
from tests.unit.control_support import REHEAT, World, finish_one, live

pytestmark = pytest.mark.usefixtures("impatient")

UNKNOWN = {"accuracy_before": accuracy(0), "accuracy_after": accuracy(0)}
"""Accuracies from which nothing can be told."""


async def asking(world: World, submitted: int = 1) -> Job:
    """A user's job that is trained and waits for approval of its version."""
    job = world.controller.submit(REHEAT)
    await world.train(await world.until_submitted(submitted), **UNKNOWN)
    waits = await world.until_status(job.job_id, JobStatus.AWAITING_APPROVAL)
    await world.until(lambda: not world.swaps.staged and world.controller.current_job is None)
    return waits


def test_no_evidence_asks_and_promotes_what_is_approved(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = await asking(world)
        assert [(gate.name, gate.outcome) for gate in job.gates] == [("entropy", "passed"), ("accuracy", "no_evidence")]
        assert world.swaps.promoted == 0 and world.store.get(1).state == "candidate"
        assert world.states() == ["serving", "reheating", "gating", "serving"]
        assert "no evidence from the gate on accuracy" in world.ledger.entries(1)[0].reason
        assert [waiting.job_id for waiting in world.controller.waiting()] == [job.job_id]

        world.controller.approve(job.job_id)
        done = await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        assert done.version == 1 and done.gates[-1].name == "delivery" and world.promotions() == [1]
        assert world.states()[-2:] == ["swapping", "serving"]
        assert len(world.dispatcher.submitted) == 1
        with pytest.raises(ConflictError, match="only a job awaiting approval"):
            world.controller.approve(job.job_id)

    live(World(tmp_path), story)


def test_no_evidence_passes_where_nobody_is_to_be_asked(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        await world.train(await world.until_submitted(), **UNKNOWN)
        done = await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        assert [gate.outcome for gate in done.gates] == ["passed", "no_evidence", "passed"]
        assert any("without evidence from the gate on accuracy" in entry.reason for entry in world.ledger.entries(9))

    live(World(tmp_path, gate={"no_evidence": "pass"}), story)


def test_a_failed_gate_rejects_even_if_another_has_no_evidence(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.entropies["policy-v1"] = entropy(0.2)
        job = world.controller.submit(RLRequest())
        await world.train(await world.until_submitted(), **UNKNOWN)
        await world.until_status(job.job_id, JobStatus.REJECTED)

    live(World(tmp_path), story)


def test_a_version_that_is_not_wanted_is_rejected(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = await asking(world)
        assert world.controller.cancel(job.job_id).status is JobStatus.CANCELLED
        assert world.store.get(1).state == "rejected" and world.controller.state is State.SERVING
        assert not world.controller.waiting()
        await finish_one(world)
        assert world.promotions() == [2]

    live(World(tmp_path), story)


def test_a_version_waits_through_a_restart(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = await asking(world)
        await world.restart()
        assert world.controller.job(job.job_id).status is JobStatus.AWAITING_APPROVAL
        assert world.controller.state is State.SERVING
        world.controller.approve(job.job_id)
        await world.crash()  # before the approved version is swapped in
        world._build()
        world.start()
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        assert world.promotions() == [1]

    live(World(tmp_path), story)


def test_other_jobs_run_meanwhile_and_overtake_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        waiting = await asking(world)
        await finish_one(world, RLRequest())
        overtaken = await world.until_status(waiting.job_id, JobStatus.REJECTED)
        assert "policy-v2 was promoted meanwhile" in (overtaken.error or "")
        assert world.store.get(1).state == "rejected" and world.promotions() == [2]

    live(World(tmp_path), story)


def test_an_approved_version_comes_before_jobs_that_would_overtake_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        waiting = await asking(world)
        running = world.controller.submit(REHEAT)
        await world.until_submitted(2)
        queued = world.controller.submit(REHEAT)
        world.controller.approve(waiting.job_id)
        world.controller.cancel(running.job_id)
        await world.until_status(waiting.job_id, JobStatus.SUCCEEDED)
        following = await world.until_submitted(3)
        assert (following.job_id, following.parent_version) == (queued.job_id, 1)

    live(World(tmp_path), story)


def test_an_approved_version_is_not_promoted_over_another(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        waiting = await asking(world)
        running = world.controller.submit(REHEAT)
        spec = await world.until_submitted(2)
        world.controller.approve(waiting.job_id)  # it has to wait for the job that runs
        await world.train(spec)
        await world.until_status(running.job_id, JobStatus.SUCCEEDED)
        await world.until_status(waiting.job_id, JobStatus.REJECTED)
        assert world.promotions() == [2]

    live(World(tmp_path), story)


def test_a_users_promotion_decides_too(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await asking(world)
        second = await asking(world, submitted=2)
        await world.controller.promote(2)
        assert world.controller.job(second.job_id).status is JobStatus.SUCCEEDED
        assert world.controller.job(first.job_id).status is JobStatus.REJECTED
        assert world.store.get(2).state == "promoted" and world.promotions() == [2]

    live(World(tmp_path), story)


def test_a_collapse_is_answered_by_one_version_that_waits(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        spec = await world.until_submitted()
        await world.train(spec, **UNKNOWN)
        await world.until_status(spec.job_id, JobStatus.AWAITING_APPROVAL)
        world.see("collapsed", 0.7)
        await world.until(lambda: world.controller.state is State.COLLAPSED and not world.swaps.staged)
        assert len(world.jobs()) == 1
        world.see("ok", 1.9)  # by itself; the version is still worth a decision
        assert world.controller.job(spec.job_id).status is JobStatus.AWAITING_APPROVAL
        world.controller.approve(spec.job_id)
        follow_up = await world.until_submitted(2)
        assert (follow_up.kind, follow_up.parent_version) == ("rl", 1)

    live(World(tmp_path, control={"cooldown_s": 0}), story)
