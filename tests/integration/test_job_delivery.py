"""Messages to workers: each is run once to effect, given out again if it is lost, and kept if nobody can handle it."""

import asyncio
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from reheatd.errors import WorkerLostError
from reheatd.jobs.channel import ALIVE_S
from reheatd.jobs.consumer import MAX_DELIVERIES
from reheatd.jobs.dispatch import (
    QUEUE,
    REHEAT_TASK,
    RESTORE_EVERY_S,
    UNACKED_KEY,
    VISIBILITY_S,
    JobDispatcher,
    make_celery,
)
from reheatd.jobs.keys import celery_id, deliveries_key, events_key
from tests.integration.job_keys import may_finish_key
from tests.integration.job_support import (
    Broker,
    follow,
    follow_until,
    kill_tree,
    let_finish,
    make_spec,
    running_worker,
    with_dispatcher,
)
from tests.waiting import wait_until

QUICK = {"TEST_VISIBILITY_S": "1"}
"""A worker that gives messages out again after a second."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker")
    yield broker
    broker.kill()


def with_redis(broker: Broker) -> "Redis":
    return Redis.from_url(broker.url, decode_responses=True)


def test_a_lost_message_is_given_out_again_within_a_minute_and_after_the_heartbeat() -> None:
    assert ALIVE_S < VISIBILITY_S
    assert VISIBILITY_S + 2 * RESTORE_EVERY_S < 60


def test_a_message_taken_by_a_worker_that_dies_before_it_begins_is_given_to_another(
    broker: Broker, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    spec = make_spec("succeed")

    async def work(dispatcher: JobDispatcher) -> None:
        await dispatcher.submit(spec)
        with running_worker(broker.url, tmp_path / "first.log", **QUICK, TEST_SLOW_START_FILE=str(slow)) as first:
            with with_redis(broker) as redis:
                await asyncio.to_thread(wait_until, lambda: redis.hlen(UNACKED_KEY))
            assert await dispatcher.is_under_way(spec.job_id, 1)
            await asyncio.to_thread(kill_tree, first)
        with running_worker(broker.url, tmp_path / "second.log", **QUICK):
            entries = await follow(dispatcher, spec)
        assert [event.kind for _, event in entries] == ["started", *["progress"] * 3, "succeeded"]

    with_dispatcher(broker, work)


def test_the_message_of_a_long_job_is_given_out_again_without_effect(broker: Broker, tmp_path: Path) -> None:
    spec = make_spec("slow")
    logs = [tmp_path / "one.log", tmp_path / "two.log"]

    async def work(dispatcher: JobDispatcher) -> None:
        await dispatcher.submit(spec)
        with running_worker(broker.url, logs[0], **QUICK), running_worker(broker.url, logs[1], **QUICK):
            await follow_until(dispatcher, spec, "progress")
            await asyncio.to_thread(wait_until, lambda: any("another worker runs" in log.read_text() for log in logs))
            let_finish(broker, spec.job_id)
            entries = await follow(dispatcher, spec)
            assert [event.kind for _, event in entries] == ["started", *["progress"] * 3, "succeeded"]
            with with_redis(broker) as redis:
                # The one that ran acknowledges a message that is gone; nothing is left to be given out.
                await asyncio.to_thread(wait_until, lambda: not redis.hlen(UNACKED_KEY) and not redis.llen(QUEUE))
                assert redis.xlen(events_key(spec.job_id)) == len(entries)

    with_dispatcher(broker, work)


class Harm:
    """Unpickling this creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


def test_what_no_worker_can_handle_becomes_a_dead_letter_and_nothing_is_unpickled(
    broker: Broker, tmp_path: Path
) -> None:
    harm = tmp_path / "harm"
    app = make_celery(broker.url)
    headers = {"lang": "py", "task": REHEAT_TASK, "id": "pickled", "argsrepr": "", "kwargsrepr": ""}
    with app.connection_for_write() as connection, connection.Producer() as producer:
        for serializer, name in (("pickle", "pickled"), ("json", "lost")):
            body: Any = ([Harm(harm)], {}, {}) if serializer == "pickle" else ([], {}, {})
            task = REHEAT_TASK if serializer == "pickle" else "reheatd.of_tomorrow"
            producer.publish(
                body, routing_key=QUEUE, serializer=serializer, headers={**headers, "id": name, "task": task}
            )
        producer.publish("no task at all", routing_key=QUEUE, serializer="json")
    app.close()
    spec = make_spec("succeed")

    async def work(dispatcher: JobDispatcher) -> None:
        incompatible = make_spec("succeed")
        await dispatcher.submit(incompatible.model_copy(update={"tau": "hot"}))
        await dispatcher.submit(spec)
        with running_worker(broker.url, tmp_path / "worker.log"):
            assert (await follow(dispatcher, spec))[-1][1].kind == "succeeded"
            last = (await follow(dispatcher, incompatible))[-1][1]
            assert last.kind == "failed" and "same version of reheatd" in (last.error or "")
            letters = {letter.message_id: letter for letter in await dispatcher.dead_letters()}
        assert letters.keys() == {"pickled", "lost", "", celery_id(incompatible.job_id, 1)}
        assert "pickle" in letters["pickled"].reason
        assert letters["lost"].task == "reheatd.of_tomorrow"

    with pytest.warns(UserWarning, match="serializer"):
        with_dispatcher(broker, work)
    assert not harm.exists()
    assert pickle.loads(pickle.dumps(Harm(harm))) is None and harm.exists()


def test_a_message_that_no_worker_survives_is_given_to_no_more(broker: Broker, tmp_path: Path) -> None:
    deadly, after = make_spec("succeed"), make_spec("succeed")

    async def work(dispatcher: JobDispatcher) -> None:
        with with_redis(broker) as redis:
            redis.set(deliveries_key(celery_id(deadly.job_id, 1)), MAX_DELIVERIES)
        await dispatcher.submit(deadly)
        await dispatcher.submit(after)
        with running_worker(broker.url, tmp_path / "worker.log"):
            with pytest.raises(WorkerLostError, match="none of them ended it"):
                await follow(dispatcher, deadly)
            assert (await follow(dispatcher, after))[-1][1].kind == "succeeded"
        assert [letter.message_id for letter in await dispatcher.dead_letters()] == [celery_id(deadly.job_id, 1)]

    with_dispatcher(broker, work)


def test_a_job_goes_on_when_the_broker_comes_back_empty(broker: Broker, tmp_path: Path) -> None:
    spec = make_spec("slow")

    async def work(dispatcher: JobDispatcher) -> None:
        await dispatcher.submit(spec)
        with running_worker(broker.url, tmp_path / "worker.log"):
            await follow_until(dispatcher, spec, "progress")
            following = asyncio.create_task(follow(dispatcher, spec))
            with with_redis(broker) as redis:
                redis.flushall()
            let_finish(broker, spec.job_id)
            assert (await following)[-1][1].kind == "succeeded"

    with_dispatcher(broker, work)


def test_a_worker_that_went_with_the_brokers_memory_is_noticed(broker: Broker, tmp_path: Path) -> None:
    spec = make_spec("hang")

    async def work(dispatcher: JobDispatcher) -> None:
        await dispatcher.submit(spec)
        with running_worker(broker.url, tmp_path / "worker.log") as process:
            await follow_until(dispatcher, spec, "started")
            await asyncio.to_thread(kill_tree, process)
        with with_redis(broker) as redis:
            redis.flushall()
        assert not await dispatcher.is_under_way(spec.job_id, 1)
        with pytest.raises(WorkerLostError, match="silent"):
            async for _ in dispatcher.events(spec.job_id, begun=True):
                pass

    with_dispatcher(broker, work, heartbeat_timeout_s=3)


def test_a_worker_waits_for_a_broker_that_takes_no_writes(broker: Broker, tmp_path: Path) -> None:
    spec = make_spec("slow")

    async def work(dispatcher: JobDispatcher) -> None:
        await dispatcher.submit(spec)
        log = tmp_path / "worker.log"
        with running_worker(broker.url, log):
            await follow_until(dispatcher, spec, "progress")
            with with_redis(broker) as redis:
                with redis.pipeline() as together:
                    together.set(may_finish_key(spec.job_id), 1)
                    together.config_set("maxmemory", 1)
                    together.execute()
                await asyncio.to_thread(wait_until, lambda: "waits for the broker" in log.read_text())
                redis.config_set("maxmemory", 0)
            assert (await follow(dispatcher, spec))[-1][1].kind == "succeeded"

    with_dispatcher(broker, work)
