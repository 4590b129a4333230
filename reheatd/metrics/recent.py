"""How many requests of clients ended lately, and how long they took, for people who look now."""

import time
from collections import deque
from collections.abc import Callable
from statistics import quantiles

from reheatd.measures import Contract

PERIOD_S = 60.0
MOST_REQUESTS = 5000
"""Requests that are remembered; where more end in a period, the newest ones stand for all."""


class RecentRequests(Contract):
    """The requests of clients whose answers ended in the last minute."""

    per_second: float
    seconds_p50: float | None
    """Time from a request's arrival to the end of its answer; None if no answer ended."""
    seconds_p95: float | None
    first_token_seconds_p50: float | None
    """Time from a request's arrival to the first event of its stream; None if no stream ended."""


class Recent:
    """Remembers the requests of the last minute.

    Args:
        clock: Gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: deque[tuple[float, float, float | None]] = deque(maxlen=MOST_REQUESTS)
        """When each request ended, its duration, and the time to its first event."""

    def add(self, seconds: float, first_s: float | None) -> None:
        """Adds a request that ended now."""
        self._ended.append((self._clock(), seconds, first_s))

    def figures(self) -> RecentRequests:
        now = self._clock()
        while self._ended and now - self._ended[0][0] > PERIOD_S:
            self._ended.popleft()
        durations = [seconds for _, seconds, _ in self._ended]
        first = [first_s for _, _, first_s in self._ended if first_s is not None]
        full = len(self._ended) == MOST_REQUESTS
        over = max(now - self._ended[0][0], 1e-3) if full else PERIOD_S
        return RecentRequests(
            per_second=len(self._ended) / over,
            seconds_p50=_quantile(durations, 50),
            seconds_p95=_quantile(durations, 95),
            first_token_seconds_p50=_quantile(first, 50),
        )


def _quantile(values: list[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return quantiles(values, n=100, method="inclusive")[percent - 1]
