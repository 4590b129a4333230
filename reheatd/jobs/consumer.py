"""The part of a Celery worker that takes messages from the broker: what cannot be run becomes a dead letter.

Celery itself only logs such a message and drops it. It would also hand a message that kills its workers to one worker
after the other, for ever.
"""

import logging
from collections.abc import Callable
from typing import Any, cast

from billiard.einfo import ExceptionInfo
from celery.worker.consumer import Consumer
from kombu.message import Message
from redis import Redis
from redis.exceptions import RedisError

from reheatd.errors import ReheatdError
from reheatd.jobs.dead_letters import bury
from reheatd.jobs.dispatch import JobCelery
from reheatd.jobs.keys import KEEP_S, deliveries_key

logger = logging.getLogger(__name__)

MAX_DELIVERIES = 10
"""A message that was given to this many workers, and has ended none of them well, is given to no more."""
SOCKET_TIMEOUT_S = 5.0


class UndeliverableError(ReheatdError):
    """A message was given to worker after worker, and none of them began its job.

    What to do: `reheatd jobs list` shows the message and the reason. Look into the workers' logs, which say why
    they ended, and ask for the job again.
    """

    code = "undeliverable"


class DurableConsumer(Consumer):
    """Celery's consumer with a list of dead letters and a limit on deliveries. `make_celery` names it."""

    def __init__(self, on_task_request: Callable[[Any], None], *arguments: Any, **options: Any) -> None:
        super().__init__(self._take, *arguments, **options)
        self._run = on_task_request
        self._redis = Redis.from_url(
            cast(JobCelery, self.app).redis_url,
            decode_responses=True,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
        )

    def _take(self, request: Any) -> None:
        """Runs a request, unless too many workers have been given its message."""
        try:
            count = self._count(request.id)
        except RedisError as error:
            logger.warning("deliveries of %s cannot be counted: %s", request.id, error)
            count = 0
        if count <= MAX_DELIVERIES:
            self._run(request)
            return
        reason = f"given to {MAX_DELIVERIES} workers, and none of them ended it; see the workers' logs"
        self._bury(request.id, request.name, reason)
        try:
            raise UndeliverableError(f"{request.id} was {reason}")
        except UndeliverableError:
            # This stores the failure where the daemon sees it, and acknowledges the message.
            request.on_failure(ExceptionInfo(), send_failed_event=False)

    def _count(self, message_id: str) -> int:
        key = deliveries_key(message_id)
        with self._redis.pipeline() as together:
            together.incr(key)
            together.expire(key, KEEP_S)
            return cast(int, together.execute()[0])

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        self._bury_message(message, f"cannot be read: {exc}")
        super().on_decode_error(message, exc)

    def on_unknown_message(self, body: Any, message: Message) -> None:
        self._bury_message(message, "is no message of a Celery task")
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:
        self._bury_message(message, "names a task that this worker does not have; is it of the daemon's version?")
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:
        self._bury_message(message, f"is not valid: {exc}")
        super().on_invalid_task(body, message, exc)

    def _bury_message(self, message: Message, reason: str) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        self._bury(headers.get("id"), headers.get("task"), reason)

    def _bury(self, message_id: object, task: object, reason: str) -> None:
        try:
            bury(self._redis, worker=self.hostname, message_id=message_id, task=task, reason=reason)
        except RedisError as error:
            logger.error("message %s is given up (%s), but not recorded: %s", message_id, reason, error)
