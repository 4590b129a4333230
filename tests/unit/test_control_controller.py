"""The control loop: from collapse to a new version, and what users may ask for."""

import asyncio
import time
from pathlib import Path

import pytest

from reheatd.control.states import State
from reheatd.errors import BadInputError, ConflictError, NotFoundError, QueueFullError
from reheatd.jobs.contracts import JobEvent, JobStatus, ReheatRequest, ReheatSpec, RLRequest
from tests.unit.control_figures import BASELINE, entropy
from tests.unit.control_support import REHEAT, World, finish_one, live

pytestmark = pytest.mark.usefixtures("impatient")


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
        assert [gate.name for gate in world.controller.job(spec.job_id).gates] == ["entropy", "accuracy", "delivery"]
        # What the gates measured need not be measured again.
        assert world.monitor.adopted == [(1, pytest.approx(0.85 * BASELINE)), (2, pytest.approx(0.85 * BASELINE))]
        assert world.monitor.triggered == 0

    live(World(tmp_path), story)


def test_the_journal_times_detection_dispatch_and_swap(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        began = time.time()
        world.see("collapsed", 0.7)
        await world.train(await world.until_submitted())
        await world.until(lambda: world.swaps.promoted == 1)
        entries = world.ledger.entries(100)
        moments = [
            next(entry.time for entry in entries if entry.to_state == "collapsed"),
            next(entry.time for entry in entries if entry.to_state == "reheating"),
            next(entry.time for entry in entries if entry.event == "promoted" and entry.version == 1),
        ]
        assert began <= moments[0] <= moments[1] <= moments[2]

    live(World(tmp_path, control={"rl": "off"}), story)


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

    live(World(tmp_path, control={"mode": "approve", "rl": "off"}), story)


def test_a_failed_reheat_is_tried_again_only_after_the_cooldown(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.7)
        spec = await world.until_submitted()
        await world.dispatcher.report(spec.job_id, JobEvent(kind="failed", error="out of memory"))
        job = await world.until_status(spec.job_id, JobStatus.FAILED)
        assert job.error == "out of memory"
        assert world.controller.state is State.COLLAPSED
        assert world.controller.cooldown_remaining_s <= 0.4
        world.see("collapsed", 0.7)
        await world.until_submitted(2)
        again = world.controller.job(world.dispatcher.submitted[1].job_id)
        assert job.finished_at is not None and again.created_at - job.finished_at >= 0.4
        assert "out of memory" in next(e.reason for e in world.ledger.entries(99) if e.from_state == "reheating")

    live(World(tmp_path, control={"cooldown_s": 0.4}), story)


def test_manual_jobs_run_in_order_one_at_a_time_without_follow_up(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first, second = world.controller.submit(REHEAT), world.controller.submit(RLRequest())
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
            world.controller.submit(ReheatRequest(tau=1.0))
        assert not world.jobs()

    live(World(tmp_path), story)


def test_cooling_by_hand_is_an_ordinary_job(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.entropies["policy-v1"] = entropy(0.7)
        await finish_one(world, ReheatRequest(tau=0.5, target_ratio=0.35))
        lineage = world.store.get(1).lineage
        assert lineage is not None and lineage.kind == "cool" and lineage.target_entropy == pytest.approx(0.7)

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


def test_a_rollback_ends_a_collapse(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await finish_one(world)
        world.see("collapsed", 0.7)
        report = await world.controller.rollback()
        world.monitor.verdict = None
        assert (report.from_version, report.to_version) == (1, 0)
        assert world.controller.state is State.SERVING
        assert world.monitor.triggered == 1
        with pytest.raises(NotFoundError):
            await world.controller.promote(9)

    live(World(tmp_path, control={"mode": "observe"}), story)
