"""The worker's side of a job: it reports events, keeps a heartbeat and learns of cancellation."""

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NoReturn, cast

from celery.exceptions import Ignore
from pydantic import ValidationError
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from reheatd.broker_url import parse_broker_url
from reheatd.entropy.windows import LiveWindow
from reheatd.errors import WorkerIncompatibleError
from reheatd.jobs.contracts import ImportResult, JobEvent, JobResult
from reheatd.jobs.dead_letters import bury
from reheatd.jobs.keys import (
    ATTEMPT_FIELD,
    EVENTS_FIELD,
    KEEP_S,
    alive_key,
    attempt_key,
    cancel_key,
    celery_id,
    claim,
    events_key,
    owner_key,
)
from reheatd.jobs.rollout_length import RolloutLength
from reheatd.validation import first_problem

logger = logging.getLogger(__name__)

BEAT_S = 5.0
PATIENCE_S = 300.0
"""How long a worker waits for a broker that is away or takes no writes, in seconds."""
RECONNECTIONS = 10
"""How often one call connects again before the worker logs that it waits."""
FULL_DISK = "MISCONF"
"""How the answer of a broker begins that cannot write to its disk."""
ALIVE_S = 30
"""How long a heartbeat lasts, in seconds: several beats may be missed before a busy machine is taken for a dead one."""

ADD_IF_WANTED = """
local wanted = redis.call('GET', KEYS[1])
if wanted and wanted ~= ARGV[1] then
    return 'attempt ' .. ARGV[1] .. ' was replaced by attempt ' .. wanted
end
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[2] then
    return 'another worker runs attempt ' .. ARGV[1]
end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('XADD', KEYS[3], '*', ARGV[4], ARGV[1], ARGV[5], ARGV[6])
redis.call('EXPIRE', KEYS[3], ARGV[3])
return ''
"""
"""Adds an event if this delivery of the attempt is the one that runs, in one step: between a check and an addition, a
worker could be stopped for as long as another needs to take its place. The first event claims the attempt. If the
broker came back empty, the next event claims it again."""


class JobNotWantedError(Ignore):
    """The job must not run here: it was cancelled before it began, or another delivery or a later attempt runs.

    The error is a Celery `Ignore`: a task that lets it through ends without a result.
    """


class JobChannel:
    """Reports one job over Redis. As a context manager, it keeps the heartbeat going while training computes.

        with JobChannel(broker_url, spec.job_id, attempt) as reporter:
            reporter.started()
            ...
            reporter.succeeded(result)

    It waits for a broker that is away, for some minutes, so that a restart of the broker does not cost a training run.
    """

    def __init__(self, redis_url: str, job_id: str, attempt: int) -> None:
        self.job_id = job_id
        self._attempt = attempt
        self._redis = Redis.from_url(
            str(parse_broker_url(redis_url)),
            decode_responses=True,
            retry=Retry(ExponentialBackoff(cap=5.0, base=0.2), retries=RECONNECTIONS),
            retry_on_error=[ConnectionError, TimeoutError],
        )
        self._add_if_wanted = self._redis.register_script(ADD_IF_WANTED)
        self._claim = ""
        """What this delivery stores under `owner_key`; empty before `started`."""
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name=f"heartbeat-{job_id}", daemon=True)

    def __enter__(self) -> "JobChannel":
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heartbeat.join()
        self._redis.close()

    def started(self) -> None:
        """Claims the job and reports that it runs. Call this first, and let its exception through.

        Raises:
            JobNotWantedError: The job must not run here; do nothing and report nothing.
        """
        seconds, microseconds = cast(tuple[int, int], self._patiently(self._redis.time))
        self._claim = claim(seconds + microseconds / 1e6, secrets.token_hex(8))
        if self.is_cancelled():
            self.cancelled()
            raise JobNotWantedError(f"job {self.job_id} was cancelled before it began")
        self._send(JobEvent(kind="started"))

    def progress(
        self,
        phase: str,
        step: int,
        steps: int,
        metrics: Mapping[str, float],
        *,
        done: int = 0,
        of: int = 0,
        rollouts: LiveWindow | None = None,
        length: RolloutLength | None = None,
    ) -> None:
        """Reports a phase, e.g. `sampling`, in step `step` of `steps`, with the metrics that are new.

        Args:
            done: How far the phase is, out of `of`; both are 0 if nothing is counted.
            rollouts: Entropy of rollouts that were just sampled.
            length: The length of rollouts, once the worker has found it.

        Raises:
            JobNotWantedError: This worker was taken for dead, and the job was given to another.
        """
        counted = {"phase": phase, "step": step, "steps": steps, "done": done, "of": of}
        self._send(JobEvent(kind="progress", **counted, metrics=dict(metrics), rollouts=rollouts, length=length))

    def succeeded(self, result: JobResult | ImportResult) -> None:
        self._send(JobEvent(kind="succeeded", result=result))

    def failed(self, error: str) -> None:
        """Reports that the job failed; `error` is one line that says what went wrong and what to do about it."""
        self._send(JobEvent(kind="failed", error=error))

    def cancelled(self) -> None:
        """Confirms that the job stopped because it was cancelled."""
        self._send(JobEvent(kind="cancelled"))

    def is_cancelled(self) -> bool:
        return bool(self._patiently(lambda: self._redis.exists(cancel_key(self.job_id))))

    def _send(self, event: JobEvent) -> None:
        keys = [attempt_key(self.job_id), owner_key(self.job_id, self._attempt), events_key(self.job_id)]
        values = [self._attempt, self._claim, KEEP_S, ATTEMPT_FIELD, EVENTS_FIELD, event.model_dump_json()]
        refused = cast(str, self._patiently(lambda: self._add_if_wanted(keys=keys, args=values)))
        if refused:
            logger.warning("job %s: %s; this worker stops", self.job_id, refused)
            raise JobNotWantedError(f"job {self.job_id}: {refused}")

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """The result of a call, which is repeated while the broker is away or takes no writes (its disk is full)."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except (ConnectionError, TimeoutError, ResponseError) as error:
                is_full = isinstance(error, OutOfMemoryError | ReadOnlyError) or str(error).startswith(FULL_DISK)
                refuses = isinstance(error, ResponseError | AuthenticationError) and not is_full
                if refuses or time.monotonic() > deadline:
                    raise
                logger.warning("job %s waits for the broker: %s", self.job_id, error)
            self._stop.wait(BEAT_S)

    def _beat(self) -> None:
        key = alive_key(self.job_id, self._attempt)
        while not self._stop.is_set():
            try:
                self._redis.set(key, "1", ex=ALIVE_S)
            except RedisError as error:
                logger.warning("heartbeat of job %s did not reach the broker: %s", self.job_id, error)
            self._stop.wait(BEAT_S)


def refuse_spec(redis_url: str, spec: Any, attempt: int, error: ValidationError) -> NoReturn:
    """Reports that this worker cannot read a job's specification, to the daemon and among the dead letters.

    Raises:
        WorkerIncompatibleError: Always.
    """
    name, problem = first_problem(error)
    reason = f"the job's specification is not one of this worker's version of reheatd ({name}: {problem})"
    job_id = spec.get("job_id") if isinstance(spec, dict) else None
    message_id = celery_id(str(job_id), attempt)
    with Redis.from_url(str(parse_broker_url(redis_url))) as redis:
        bury(redis, worker=socket.gethostname(), message_id=message_id, task=None, reason=reason)
    if isinstance(job_id, str):
        with JobChannel(redis_url, job_id, attempt) as channel:
            channel.started()
            channel.failed(f"{reason}; run the same version of reheatd on daemon and workers")
    raise WorkerIncompatibleError(f"{message_id}: {reason}")
