"""How an engine's time is divided among those who ask it."""

import time
from collections.abc import Callable
from typing import Literal, get_args

Asker = Literal["client", "job", "probe"]
"""Who a request comes from: a client, a job's rollouts and measurements, or the monitoring of entropy."""


class BusyTime:
    """Adds up the seconds in which an engine had requests in flight, by who asked.

    At every moment, each request in flight has an equal share of the engine, so that the sums over all askers grow by
    at most one second per second.

    Args:
        now: A monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = now()
        self.in_flight: dict[Asker, int] = dict.fromkeys(get_args(Asker), 0)
        """Number of requests in flight, by who asked."""
        self._seconds: dict[Asker, float] = dict.fromkeys(get_args(Asker), 0.0)

    def begin(self, asker: Asker) -> None:
        """Notes that a request has been sent."""
        self._settle()
        self.in_flight[asker] += 1

    def end(self, asker: Asker) -> None:
        """Notes that a request is over."""
        self._settle()
        self.in_flight[asker] -= 1

    def seconds(self) -> dict[Asker, float]:
        """The seconds so far, by who asked."""
        self._settle()
        return dict(self._seconds)

    def _settle(self) -> None:
        now = self._now()
        if total := sum(self.in_flight.values()):
            for asker, number in self.in_flight.items():
                self._seconds[asker] += (now - self._at) * number / total
        self._at = now
