"""Waiting that can end early: retries while engine or broker restart, and work that a user may cancel."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_delay, wait_fixed

from reheatd.database import StateError
from reheatd.errors import DeliveryError, EngineError, NotFoundError, ReheatdError
from reheatd.jobs.contracts import JobStatus
from reheatd.process.broker import BrokerError

T = TypeVar("T")
logger = logging.getLogger(__name__)

RETRY_S = 2.0


class JobStopped(Exception):
    """Ends a job with a final status other than succeeded."""

    def __init__(self, status: JobStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class GateFailed(JobStopped):
    """A gate rejects the version that a job made."""


async def retry_while_unreachable(operation: Callable[[], Awaitable[T]], timeout_s: float) -> T:
    """The result of `operation`, which is repeated while engine or broker cannot be reached, e.g. during a restart.

    A NotFoundError counts as unreachable too, because a restarted engine does not know its adapters until they are
    loaded again. A request that an engine refuses, for example because the model has no chat template, is not repeated.

    Raises:
        EngineError, BrokerError, NotFoundError: `operation` still raises this after `timeout_s` seconds.
    """

    async def attempt() -> T:
        return await operation()

    retrying = AsyncRetrying(
        retry=retry_if_exception(_means_unreachable),
        wait=wait_fixed(RETRY_S),
        stop=stop_after_delay(timeout_s),
        before_sleep=_log_failure,
        reraise=True,
    )
    return await retrying(attempt)


def _means_unreachable(error: BaseException) -> bool:
    if isinstance(error, EngineError):
        return error.is_transient and not isinstance(error, DeliveryError)
    return isinstance(error, BrokerError | NotFoundError)


def _log_failure(state: RetryCallState) -> None:
    logger.warning("trying again after an error: %s", state.outcome and state.outcome.exception())


async def unless_cancelled(cancelled: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, unless `cancelled` is set first.

    Raises:
        JobStopped: `cancelled` was set first; `work` was abandoned.
    """
    working = asyncio.create_task(work)
    cancelling = asyncio.create_task(cancelled.wait())
    try:
        await asyncio.wait({working, cancelling}, return_when=asyncio.FIRST_COMPLETED)
        stop_if(cancelled)
        return working.result()
    finally:
        await abandon(working, cancelling)


@contextmanager
def warned(consequence: str) -> Iterator[None]:
    """Logs what the failure of a clean-up leaves behind, and goes on."""
    try:
        yield
    except StateError:
        raise
    except ReheatdError as error:
        logger.warning("%s: %s", consequence, error)


def stop_if(cancelled: asyncio.Event) -> None:
    """Ends the job here if it was cancelled.

    Raises:
        JobStopped: The job was cancelled.
    """
    if cancelled.is_set():
        raise JobStopped(JobStatus.CANCELLED, "cancelled")


async def abandon(*tasks: "asyncio.Task[Any]") -> None:
    """Cancels tasks and waits until they have ended, ignoring what they raise."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
