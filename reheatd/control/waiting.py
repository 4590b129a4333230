"""Waiting with a way out: for an engine or broker that restarts, and for a user who cancels."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from reheatd.errors import DeliveryError, EngineError, NotFoundError
from reheatd.jobs.contracts import JobStatus
from reheatd.process.broker import BrokerError

T = TypeVar("T")
logger = logging.getLogger(__name__)

RETRY_S = 2.0


class JobStopped(Exception):
    """The job ends here with a final status other than succeeded."""

    def __init__(self, status: JobStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


async def patiently(operation: Callable[[], Awaitable[T]], timeout_s: float) -> T:
    """Repeats `operation` while engine or broker cannot be reached, e.g. because they restart.

    Right after a restart of the engine its adapters are unknown until they are loaded again: so is NotFoundError.

    Raises:
        EngineError, BrokerError, NotFoundError: As raised by `operation` after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return await operation()
        except DeliveryError:
            raise
        except (EngineError, BrokerError, NotFoundError) as error:
            if time.monotonic() > deadline:
                raise
            logger.warning("will try again: %s", error)
            await asyncio.sleep(RETRY_S)


async def unless_cancelled(cancelled: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`.

    Raises:
        JobStopped: `cancelled` was set first; `work` is abandoned.
    """
    working = asyncio.create_task(work)
    cancelling = asyncio.create_task(cancelled.wait())
    try:
        await asyncio.wait({working, cancelling}, return_when=asyncio.FIRST_COMPLETED)
        stop_if(cancelled)
        return working.result()
    finally:
        await abandon(working, cancelling)


def stop_if(cancelled: asyncio.Event) -> None:
    """Ends the job here if it was cancelled.

    Raises:
        JobStopped: The job was cancelled.
    """
    if cancelled.is_set():
        raise JobStopped(JobStatus.CANCELLED, "cancelled")


async def abandon(*tasks: "asyncio.Task[Any]") -> None:
    """Cancels tasks and waits until they have ended; what they raise is of no interest any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
