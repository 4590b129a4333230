"""The worker's side of a job: it reports events, keeps a heartbeat and learns of cancellation."""

import logging
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import cast

from celery.exceptions import Ignore
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError
from redis.retry import Retry

from reheatd.broker_url import parse_broker_url
from reheatd.entropy.live import LiveWindow
from reheatd.jobs.contracts import ImportResult, JobEvent, JobResult
from reheatd.jobs.keys import EVENTS_FIELD, KEEP_S, alive_key, attempt_key, cancel_key, events_key, owner_key

logger = logging.getLogger(__name__)

BEAT_S = 5.0
ALIVE_S = 30
"""How long a heartbeat lasts, in seconds: several beats may be missed before a busy machine is taken for a dead one."""


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

    It waits out short losses of the connection, for about half a minute in all, so that a restart of the broker does
    not cost a training run.
    """

    def __init__(self, redis_url: str, job_id: str, attempt: int) -> None:
        self.job_id = job_id
        self._attempt = attempt
        self._redis = Redis.from_url(
            str(parse_broker_url(redis_url)),
            decode_responses=True,
            retry=Retry(ExponentialBackoff(cap=5.0, base=0.2), retries=10),
            retry_on_error=[ConnectionError, TimeoutError],
        )
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
        if self.is_cancelled():
            self.cancelled()
            raise JobNotWantedError(f"job {self.job_id} was cancelled before it began")
        seconds, microseconds = cast(tuple[int, int], self._redis.time())
        own = owner_key(self.job_id, self._attempt)
        if not self._redis.set(own, seconds + microseconds / 1e6, nx=True, ex=KEEP_S):
            raise JobNotWantedError(f"job {self.job_id} was delivered twice; another worker runs it")
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
    ) -> None:
        """Reports a phase, e.g. `sampling`, in step `step` of `steps`, with the metrics that are new.

        Args:
            done: How far the phase is, out of `of`; both are 0 if nothing is counted.
            rollouts: Entropy of rollouts that were just sampled.

        Raises:
            JobNotWantedError: This worker was taken for dead, and the job was given to another.
        """
        counted = {"phase": phase, "step": step, "steps": steps, "done": done, "of": of}
        self._send(JobEvent(kind="progress", **counted, metrics=dict(metrics), rollouts=rollouts))

    def succeeded(self, result: JobResult | ImportResult) -> None:
        self._send(JobEvent(kind="succeeded", result=result))

    def failed(self, error: str) -> None:
        """Reports that the job failed; `error` is one line that says what went wrong and what to do about it."""
        self._send(JobEvent(kind="failed", error=error))

    def cancelled(self) -> None:
        """Confirms that the job stopped because it was cancelled."""
        self._send(JobEvent(kind="cancelled"))

    def is_cancelled(self) -> bool:
        return bool(self._redis.exists(cancel_key(self.job_id)))

    def _send(self, event: JobEvent) -> None:
        wanted = self._redis.get(attempt_key(self.job_id))
        if wanted != str(self._attempt):
            raise JobNotWantedError(f"attempt {self._attempt} at job {self.job_id} was replaced by attempt {wanted}")
        key = events_key(self.job_id)
        self._redis.xadd(key, {EVENTS_FIELD: event.model_dump_json()})
        self._redis.expire(key, KEEP_S)

    def _beat(self) -> None:
        key = alive_key(self.job_id, self._attempt)
        while not self._stop.is_set():
            try:
                self._redis.set(key, "1", ex=ALIVE_S)
            except RedisError as error:
                logger.warning("heartbeat of job %s did not reach the broker: %s", self.job_id, error)
            self._stop.wait(BEAT_S)
