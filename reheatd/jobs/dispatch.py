"""The daemon's side of a job: it hands the job to Celery, follows its events and notices when its worker is gone."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from celery import Celery
from celery.exceptions import CeleryError
from kombu.exceptions import KombuError
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_fixed

from reheatd.broker_url import broker_address, parse_broker_url
from reheatd.errors import WorkerIncompatibleError, WorkerLostError
from reheatd.jobs.contracts import ImportSpec, JobEvent, TrainingSpec
from reheatd.jobs.dead_letters import DeadLetter, read_dead_letters
from reheatd.jobs.keys import (
    ATTEMPT_FIELD,
    DEAD_LETTERS_KEY,
    EVENTS_FIELD,
    KEEP_S,
    alive_key,
    attempt_key,
    begun_at,
    cancel_key,
    celery_id,
    events_key,
    owner_key,
)
from reheatd.process.broker import BrokerError

logger = logging.getLogger(__name__)

QUEUE = "reheatd"
REHEAT_TASK = "reheatd.reheat"
CONTINUE_RL_TASK = "reheatd.continue_rl"
IMPORT_TASK = "reheatd.import"
TASKS = {"reheat": REHEAT_TASK, "rl": CONTINUE_RL_TASK, "import": IMPORT_TASK}
"""Names of the tasks by kind of job."""
FINAL_KINDS = ("succeeded", "failed", "cancelled")
POLL_S = 2.0
"""Longest wait for an event before the worker's heartbeat is looked at, in seconds."""
PING_S = 1.0
VISIBILITY_S = 40
"""A message that no worker has acknowledged for this time is given out again, in seconds. A worker acknowledges when
the job has ended, so the message of a long job is given out again too; `JobChannel.started` lets only one run. The time
is longer than a heartbeat lasts (`reheatd.jobs.channel.ALIVE_S`), and a worker that died costs less than a minute."""
RESTORE_EVERY_S = 5
"""How often every worker looks for such messages, in seconds."""
UNACKED_KEY = "reheatd:unacked"
"""Messages that are with a worker. The key is our own: other Celery applications on the same Redis have other
time-outs, and each restores whatever it finds under the key."""


class JobCelery(Celery):
    """A Celery application that also knows the broker's URL as redis-py takes it, with its password."""

    redis_url: str = ""


def make_celery(broker_url: str) -> JobCelery:
    """The Celery application that daemon and workers share.

    The tasks `reheatd.reheat`, `reheatd.continue_rl` and `reheatd.import` take three arguments: the JSON object of a
    `ReheatSpec`, `RLSpec` or `ImportSpec`, the number of the attempt, and the attempt's credential for the gateway.
    They report through `JobChannel` and return nothing.
    """
    url, tls = parse_broker_url(broker_url).for_celery()
    app = JobCelery("reheatd", broker=url, backend=url)
    app.redis_url = str(parse_broker_url(broker_url))
    app.conf.update(
        broker_use_ssl=tls or None,
        redis_backend_use_ssl=tls or None,
        task_default_queue=QUEUE,
        # JSON alone, in every direction: whoever can write to the broker must not be able to run code on a worker.
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_track_started=True,
        # A message stays with the broker until its job has ended, so a worker that dies before it begins loses none.
        task_acks_late=True,
        # If the process of a job dies, the daemon decides whether the job runs again; the broker never does.
        task_reject_on_worker_lost=False,
        task_acks_on_failure_or_timeout=True,
        # A lost connection ends no job: the message is given out again, and the claim refuses it.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_consumer="reheatd.jobs.consumer:DurableConsumer",
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_S,
            "unacked_restore_interval": RESTORE_EVERY_S,
            "unacked_restore_throttle": 1,
            "unacked_key": UNACKED_KEY,
            "unacked_index_key": f"{UNACKED_KEY}_index",
            "unacked_mutex_key": f"{UNACKED_KEY}_mutex",
            # A worker that is killed while it looks for messages blocks the others for this time, in seconds.
            "unacked_mutex_expire": RESTORE_EVERY_S,
        },
        result_expires=KEEP_S,
    )
    return app


class JobDispatcher:
    """Submits, cancels and follows jobs. Close it when done.

    Args:
        broker_url: Redis URL of the broker that the workers use.
        heartbeat_timeout_s: A job that has begun is lost when its worker has been silent for this time, in seconds.
        credential: Gives the credential of a job in one attempt, with which its worker asks the gateway.
    """

    def __init__(self, broker_url: str, *, heartbeat_timeout_s: float, credential: Callable[[str, int], str]) -> None:
        self.headers_of: Callable[[str], dict[str, str]] = lambda job_id: {}
        """Gives the headers of a job's message, by which its worker goes on in the job's trace."""
        self._url = broker_url
        self._credential = credential
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._celery = make_celery(broker_url)
        # There is no socket timeout, because the blocking read below has its own.
        self._redis = Redis.from_url(str(parse_broker_url(broker_url)), decode_responses=True)
        self._celery_lock = asyncio.Lock()
        self._census = -math.inf, 0
        """Time of the last count of workers, and its result."""

    async def close(self) -> None:
        await self._redis.aclose()
        await asyncio.to_thread(self._celery.close)

    async def submit(self, spec: TrainingSpec | ImportSpec, attempt: int = 1) -> None:
        """Puts the job into the workers' queue. Doing so twice is harmless, since `JobChannel.started` lets one run.

        Args:
            attempt: Number of this attempt. A worker that still runs an earlier one stops at its next report.

        Raises:
            BrokerError: The broker cannot be reached.
        """
        try:
            await self._redis.set(attempt_key(spec.job_id), attempt, ex=KEEP_S)
        except (RedisError, OSError) as error:
            raise self._broker_error(error) from error
        await self._call(
            self._celery.send_task,
            TASKS[spec.kind],
            args=[spec.model_dump(mode="json"), attempt, self._credential(spec.job_id, attempt)],
            argsrepr=f"({spec.job_id!r}, {attempt})",  # what Celery logs and shows
            headers=self.headers_of(spec.job_id),
            task_id=celery_id(spec.job_id, attempt),
            ignore_result=False,
        )

    async def is_under_way(self, job_id: str, attempt: int) -> bool:
        """Whether the broker holds the message of this attempt for a worker, or a worker has begun the attempt.

        If not, the broker has lost it: a crash took its last second of writes, or it came back empty.

        Raises:
            BrokerError: The broker cannot be reached.
        """
        try:
            begun: Any = await self._redis.exists(owner_key(job_id, attempt), alive_key(job_id, attempt))
            waiting: Any = await self._redis.lrange(QUEUE, 0, -1)  # pyright: ignore[reportGeneralTypeIssues]
            taken: Any = await self._redis.hvals(UNACKED_KEY)  # pyright: ignore[reportGeneralTypeIssues]
        except (RedisError, OSError) as error:
            raise self._broker_error(error) from error
        quoted = f'"{celery_id(job_id, attempt)}"'
        return bool(begun) or any(quoted in message for message in [*waiting, *taken])

    async def dead_letters(self) -> list[DeadLetter]:
        """The newest messages that no worker could handle, oldest first.

        Raises:
            BrokerError: The broker cannot be reached.
        """
        try:
            entries: Any = await self._redis.lrange(DEAD_LETTERS_KEY, 0, -1)  # pyright: ignore[reportGeneralTypeIssues]
        except (RedisError, OSError) as error:
            raise self._broker_error(error) from error
        return read_dead_letters(reversed(entries))

    async def cancel(self, job_id: str) -> None:
        """Asks the worker to stop, and keeps the job from starting if no worker has taken it yet.

        Raises:
            BrokerError: The broker cannot be reached.
        """
        try:
            await self._redis.set(cancel_key(job_id), "1", ex=KEEP_S)
        except (RedisError, OSError) as error:
            raise self._broker_error(error) from error

    async def terminate(self, job_id: str, attempt: int = 1) -> None:
        """Kills the process that runs the job, for a worker that does not react to `cancel`.

        Raises:
            BrokerError: The broker cannot be reached.
        """
        await self._call(self._celery.control.revoke, celery_id(job_id, attempt), terminate=True, signal="SIGKILL")

    async def connected_workers(self, max_age_s: float = 0.0) -> int:
        """The number of Celery workers that answer within a second; a count up to `max_age_s` old is used again.

        Raises:
            BrokerError: The broker cannot be reached.
        """
        counted_at, count = self._census
        if time.monotonic() - counted_at > max_age_s:
            count = len(await self._call(self._celery.control.ping, timeout=PING_S) or [])
            self._census = time.monotonic(), count
        return count

    async def events(
        self,
        job_id: str,
        after_id: str = "0",
        *,
        attempt: int = 1,
        begun: bool = False,
        workers_since: float | None = None,
    ) -> AsyncIterator[tuple[str, JobEvent]]:
        """The events of an attempt, from after stream id `after_id` up to and including the last one.

        What a worker of an earlier attempt still sends is left out: it was taken for dead, and its work was given to
        another. Waits for a worker as long as it takes; a worker that has begun must report. If the broker cannot be
        reached, this waits for it, since it keeps the events.

        Args:
            begun: Whether a worker is known to have begun this attempt.
            workers_since: Every living worker was started after this time (seconds since the epoch, on the broker's
                clock), so an attempt that began before it has lost its worker. None if workers may be older.

        Raises:
            WorkerLostError: The worker of this attempt died, or was silent for `heartbeat_timeout_s`.
            WorkerIncompatibleError: The worker sent something that is not an event.
        """
        last_alive = 0.0

        async def read() -> list[tuple[str, dict[str, str]]]:
            nonlocal last_alive
            entries = await self._read(job_id, after_id, block_ms=int(POLL_S * 1000))
            if not entries:
                # A broker that comes back empty learns again which attempt counts.
                await self._redis.set(attempt_key(job_id), attempt, ex=KEEP_S, nx=True)
                await self._check_begun_since(job_id, attempt, workers_since)
                last_alive = await self._check_worker(job_id, attempt, after_id, last_alive, begun)
            return entries

        retrying = AsyncRetrying(
            retry=retry_if_exception_type((RedisError, OSError, BrokerError)),
            wait=wait_fixed(POLL_S),
            before_sleep=partial(_log_unread, job_id),
        )
        while True:
            for after_id, fields in await retrying(read):
                if int(fields.get(ATTEMPT_FIELD, attempt)) != attempt:
                    continue
                begun = True
                event = _parse(job_id, fields)
                yield after_id, event
                if event.kind in FINAL_KINDS:
                    return

    async def _read(self, job_id: str, after_id: str, *, block_ms: int) -> list[tuple[str, dict[str, str]]]:
        answer: Any = await self._redis.xread({events_key(job_id): after_id}, count=100, block=block_ms)
        if not answer:
            return []
        streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer]
        return [entry for entries in streams for entry in entries]

    async def _check_begun_since(self, job_id: str, attempt: int, workers_since: float | None) -> None:
        begun: Any = await self._redis.get(owner_key(job_id, attempt))
        if begun is not None and workers_since is not None and begun_at(begun) < workers_since:
            raise WorkerLostError(f"the daemon and its workers were stopped while job {job_id} ran")

    async def _check_worker(self, job_id: str, attempt: int, after_id: str, last_alive: float, begun: bool) -> float:
        """Checks that the worker lives, and returns when it was last known to, in seconds on the broker's clock."""
        seconds, microseconds = await self._redis.time()
        now = seconds + microseconds / 1e6
        if await self._redis.exists(alive_key(job_id, attempt)):
            return now
        state, reason = await self._call(self._celery_outcome, celery_id(job_id, attempt))
        # The last event may have arrived between the read and this check, and it says more than Celery does.
        newest = await self._redis.xrevrange(events_key(job_id), count=1)
        if newest and newest[0][0] != after_id:
            return last_alive
        if state in ("FAILURE", "REVOKED"):
            raise WorkerLostError(f"the worker of job {job_id} ended without a report ({reason}); see the worker's log")
        if not begun and not await self._redis.exists(owner_key(job_id, attempt)):
            return last_alive
        last_event = int(after_id.split("-")[0]) / 1000
        silent_s = now - max(last_alive, last_event)
        if silent_s > self._heartbeat_timeout_s:
            raise WorkerLostError(
                f"the worker of job {job_id} has been silent for {silent_s:.0f} s; see the worker's log, or raise "
                f"control.heartbeat_timeout_s ({self._heartbeat_timeout_s:.0f})"
            )
        return last_alive

    def _celery_outcome(self, task_id: str) -> tuple[str, str]:
        result = self._celery.AsyncResult(task_id)
        state = result.state
        return state, repr(result.result) if state == "FAILURE" else state.lower()

    async def _call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """Runs a blocking call of Celery in a thread, one at a time."""
        async with self._celery_lock:
            try:
                return await asyncio.to_thread(function, *arguments, **options)
            except (CeleryError, KombuError, RedisError, OSError) as error:
                raise self._broker_error(error) from error

    def _broker_error(self, error: Exception) -> BrokerError:
        where = broker_address(self._url)
        return BrokerError(f"the broker at {where} cannot be reached ({error}); see the broker's log")


def _log_unread(job_id: str, state: RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    logger.warning("the events of %s cannot be read from the broker; trying again: %s", job_id, error)


def _parse(job_id: str, fields: dict[str, str]) -> JobEvent:
    try:
        return JobEvent.model_validate_json(fields[EVENTS_FIELD])
    except (KeyError, ValidationError) as error:
        raise WorkerIncompatibleError(
            f"the worker of job {job_id} sent an event that this daemon does not understand ({error}); run the same "
            "version of reheatd on daemon and workers"
        ) from error
