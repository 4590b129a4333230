"""Jobs over a real broker and a real Celery worker; only the training is left out."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from reheatd.errors import WorkerLostError
from reheatd.jobs.contracts import JobResult, JobStatus, ReheatRequest
from reheatd.jobs.dispatch import JobDispatcher
from reheatd.jobs.keys import events_key
from tests.access import CREDENTIALS
from tests.integration.job_support import (
    Broker,
    follow,
    follow_until,
    kill_tree,
    let_finish,
    make_spec,
    running_worker,
    until_on_disk,
    with_dispatcher,
)
from tests.unit.control_figures import entropy
from tests.unit.control_support import World
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def worker(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[psutil.Process]:
    with running_worker(broker.url, tmp_path_factory.mktemp("worker") / "shared.log") as process:
        yield process


def test_a_job_reports_step_by_step_and_returns_its_result(broker: Broker, worker: psutil.Process) -> None:
    async def work(dispatcher: JobDispatcher) -> None:
        spec = make_spec("succeed")
        await dispatcher.submit(spec)
        entries = await follow(dispatcher, spec)
        assert [event.kind for _, event in entries] == ["started", *["progress"] * 3, "succeeded"]
        assert [(event.phase, event.step, event.steps) for _, event in entries[1:4]] == [
            ("training", step, 3) for step in (1, 2, 3)
        ]
        result = entries[-1][1].result
        assert isinstance(result, JobResult)
        assert (result.adapter_dir, result.entropy_after.mean) == (spec.output_dir, 1.7)
        # What a daemon does that restarts after it had handled two events.
        assert await follow(dispatcher, spec, after_id=entries[1][0]) == entries[2:]

    with_dispatcher(broker, work)


def test_a_failure_comes_with_its_reason(broker: Broker, worker: psutil.Process) -> None:
    async def work(dispatcher: JobDispatcher) -> None:
        spec = make_spec("fail")
        await dispatcher.submit(spec)
        last = (await follow(dispatcher, spec))[-1][1]
        assert (last.kind, last.error) == ("failed", "out of memory; use fewer prompts_per_step")

    with_dispatcher(broker, work)


def test_a_running_job_is_cancelled(broker: Broker, worker: psutil.Process) -> None:
    async def work(dispatcher: JobDispatcher) -> None:
        spec = make_spec("obey")
        await dispatcher.submit(spec)
        await follow_until(dispatcher, spec, "progress")
        await dispatcher.cancel(spec.job_id)
        assert (await follow(dispatcher, spec))[-1][1].kind == "cancelled"

    with_dispatcher(broker, work)


def test_a_job_that_was_delivered_twice_runs_once(broker: Broker, worker: psutil.Process) -> None:
    async def work(dispatcher: JobDispatcher) -> None:
        spec, last = make_spec("succeed"), make_spec("succeed")
        await dispatcher.submit(spec)
        await dispatcher.submit(spec)
        await dispatcher.submit(last)
        # The one worker takes them in order: when the last is done, both deliveries of the first are.
        await follow(dispatcher, last)
        entries: Any = Redis.from_url(broker.url).xrange(events_key(spec.job_id))
        assert len(entries) == len(await follow(dispatcher, spec)) == 5

    with_dispatcher(broker, work)


def test_a_worker_process_that_dies_is_noticed(broker: Broker, worker: psutil.Process) -> None:
    async def work(dispatcher: JobDispatcher) -> None:
        spec = make_spec("die")
        await dispatcher.submit(spec)
        with pytest.raises(WorkerLostError, match=spec.job_id):
            await follow(dispatcher, spec)

    with_dispatcher(broker, work)


def test_a_worker_that_ignores_cancellation_is_killed(broker: Broker, worker: psutil.Process) -> None:
    async def work(dispatcher: JobDispatcher) -> None:
        spec, after = make_spec("hang"), make_spec("succeed")
        await dispatcher.submit(spec)
        await follow_until(dispatcher, spec, "started")
        await dispatcher.cancel(spec.job_id)
        await dispatcher.terminate(spec.job_id)
        await dispatcher.submit(after)
        assert (await follow(dispatcher, after))[-1][1].kind == "succeeded"

    with_dispatcher(broker, work)


def test_workers_are_counted(broker: Broker, worker: psutil.Process) -> None:
    async def work(dispatcher: JobDispatcher) -> None:
        # A worker on a slow machine may take longer than the second that is waited for answers.
        while await dispatcher.connected_workers() != 1:
            pass

    with_dispatcher(broker, work)


def test_a_restarted_daemon_picks_its_running_job_up_from_the_stream(
    broker: Broker, worker: psutil.Process, tmp_path: Path
) -> None:
    class RealWorld(World):
        def _build(self) -> None:
            self.dispatcher: Any = JobDispatcher(broker.url, heartbeat_timeout_s=60, credential=CREDENTIALS.of)
            super()._build()

    async def run() -> None:
        async with RealWorld(tmp_path, task={"reward": "slow"}, broker={"url": broker.url}) as world:
            world.monitor.entropies["policy-v1"] = entropy(1.7)
            job_id = world.controller.submit(ReheatRequest(tau=1.5)).job_id
            await world.until(lambda: world.controller.job(job_id).step == 3)
            await world.dispatcher.close()
            await world.restart()
            job = world.controller.job(job_id)
            assert (job.status, job.phase, job.metrics) == (JobStatus.RUNNING, "training", {"loss": 1 / 3})
            let_finish(broker, job_id)
            await world.until(lambda: world.controller.job(job_id).status.is_final)
            assert world.controller.job(job_id).status is JobStatus.SUCCEEDED
            assert world.swaps.promoted == 1
            await world.dispatcher.close()

    asyncio.run(run())


def test_a_job_that_loses_two_workers_is_finished_by_the_third(
    broker: Broker, worker: psutil.Process, tmp_path: Path
) -> None:
    class RealWorld(World):
        def _build(self) -> None:
            self.dispatcher: Any = JobDispatcher(broker.url, heartbeat_timeout_s=60, credential=CREDENTIALS.of)
            super()._build()

    async def run() -> None:
        async with RealWorld(tmp_path, task={"reward": "die-twice"}, broker={"url": broker.url}) as world:
            world.monitor.entropies["policy-v1"] = entropy(1.7)
            job_id = world.controller.submit(ReheatRequest(tau=1.5)).job_id
            await world.until(lambda: world.controller.job(job_id).status.is_final)
            job = world.controller.job(job_id)
            assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 3)
            await world.dispatcher.close()

    asyncio.run(run())


def test_a_worker_that_was_taken_for_dead_stops_when_it_reports(broker: Broker, worker: psutil.Process) -> None:
    async def work(dispatcher: JobDispatcher) -> None:
        spec, after = make_spec("overtaken"), make_spec("succeed")
        await dispatcher.submit(spec)
        await follow_until(dispatcher, spec, "started")
        await dispatcher.submit(spec, attempt=2)
        await dispatcher.submit(after)
        await follow(dispatcher, after)
        kinds = [event.kind async for _, event in dispatcher.events(spec.job_id, attempt=2)]
        assert kinds == ["started", *["progress"] * 3, "succeeded"]

    with_dispatcher(broker, work)


def test_a_worker_that_wakes_after_its_job_was_given_away_reports_nothing_more(tmp_path: Path) -> None:
    own = Broker(tmp_path)

    async def work(dispatcher: JobDispatcher) -> None:
        spec = make_spec("overtaken")
        await dispatcher.submit(spec)
        with running_worker(own.url, tmp_path / "sleeper.log") as sleeper:
            await follow_until(dispatcher, spec, "progress")
            family = [sleeper, *sleeper.children(recursive=True)]
            for process in family:
                process.suspend()
            with pytest.raises(WorkerLostError, match="silent"):
                await follow(dispatcher, spec)
            await dispatcher.submit(spec, attempt=2)
            with running_worker(own.url, tmp_path / "successor.log"):
                entries = [entry async for entry in dispatcher.events(spec.job_id, attempt=2)]
            assert [event.kind for _, event in entries] == ["started", *["progress"] * 3, "succeeded"]
            for process in family:
                process.resume()
            log = tmp_path / "sleeper.log"
            await asyncio.to_thread(wait_until, lambda: "was replaced by attempt 2" in log.read_text())
        with Redis.from_url(own.url, decode_responses=True) as redis:
            stream: Any = redis.xrange(events_key(spec.job_id))
        assert stream[-1][0] == entries[-1][0]

    try:
        with_dispatcher(own, work, heartbeat_timeout_s=3)
    finally:
        own.kill()


def test_a_job_is_lost_with_the_daemon_whose_worker_ran_it(broker: Broker, worker: psutil.Process) -> None:
    async def work(dispatcher: JobDispatcher) -> None:
        spec, done = make_spec("obey"), make_spec("succeed")
        await dispatcher.submit(done)
        finished = await follow(dispatcher, done)
        await dispatcher.submit(spec)
        await follow_until(dispatcher, spec, "progress")
        with pytest.raises(WorkerLostError, match="were stopped"):
            [entry async for entry in dispatcher.events(spec.job_id, workers_since=time.time() + 1)]
        await dispatcher.cancel(spec.job_id)
        # What had ended by then counts.
        again = [entry async for entry in dispatcher.events(done.job_id, workers_since=time.time() + 1)]
        assert again == finished

    with_dispatcher(broker, work)


def test_a_worker_machine_that_vanishes_is_noticed_by_its_silence(tmp_path: Path) -> None:
    own = Broker(tmp_path)
    try:
        with running_worker(own.url, tmp_path / "vanishing.log") as process:

            async def work(dispatcher: JobDispatcher) -> None:
                spec = make_spec("hang")
                await dispatcher.submit(spec)
                await follow_until(dispatcher, spec, "started")
                kill_tree(process)
                with pytest.raises(WorkerLostError, match="silent"):
                    await follow(dispatcher, spec)
                assert await dispatcher.connected_workers() == 0

            with_dispatcher(own, work, heartbeat_timeout_s=3)
    finally:
        own.kill()


def test_a_job_cancelled_before_any_worker_came_never_runs(tmp_path: Path) -> None:
    own = Broker(tmp_path)
    try:
        cancelled, wanted = make_spec("succeed"), make_spec("succeed")

        async def before(dispatcher: JobDispatcher) -> None:
            await dispatcher.submit(cancelled)
            await dispatcher.cancel(cancelled.job_id)
            await dispatcher.submit(wanted)

        async def after(dispatcher: JobDispatcher) -> None:
            assert (await follow(dispatcher, wanted))[-1][1].kind == "succeeded"
            assert [event.kind for _, event in await follow(dispatcher, cancelled)] == ["cancelled"]

        with_dispatcher(own, before)
        with running_worker(own.url, tmp_path / "late.log"):
            with_dispatcher(own, after)
    finally:
        own.kill()


def test_a_job_survives_a_broker_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    own = Broker(tmp_path)
    try:
        with running_worker(own.url, tmp_path / "steady.log"):

            async def work(dispatcher: JobDispatcher) -> None:
                spec = make_spec("slow")
                await dispatcher.submit(spec)
                await follow_until(dispatcher, spec, "progress")
                following = asyncio.create_task(follow(dispatcher, spec))
                await asyncio.to_thread(until_on_disk, own)
                await asyncio.to_thread(own.kill)
                await asyncio.to_thread(own.start)
                let_finish(own, spec.job_id)
                assert (await following)[-1][1].kind == "succeeded"

            with_dispatcher(own, work)
    finally:
        own.kill()
