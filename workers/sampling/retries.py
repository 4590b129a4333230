"""Asks again while the engine is away."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential

from reheatd.errors import EngineError

Result = TypeVar("Result")

MAX_DELAY_S = 10.0
"""Longest pause between two attempts, in seconds."""


class Patience:
    """Repeats requests that fail for a transient reason, such as a restarting engine, until it has been away too long.

    The time counts from the first failure since an answer, for all requests together: how long answers take is not
    limited.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._away_since: float | None = None

    async def repeat(self, request: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `request`; the last error if it went on failing."""

        async def attempt() -> Result:
            result = await request()
            self._away_since = None
            return result

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, EngineError) and error.is_transient),
            wait=wait_exponential(max=MAX_DELAY_S),
            stop=self._is_over,
            reraise=True,
        )
        return await retrying(attempt)

    def _is_over(self, attempts: RetryCallState) -> bool:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        return now + attempts.upcoming_sleep - self._away_since > self._longest_s
