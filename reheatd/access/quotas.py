"""The limits of each key over time: requests and tokens per minute."""

import math
import time
from collections.abc import Callable

from reheatd.access.keys import ApiKey
from reheatd.errors import RateLimitError

MINUTE_S = 60.0


class Bucket:
    """A token bucket: it holds a minute's worth, and fills up at that rate. Its level may fall below 0."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def level(self) -> float:
        now = self._clock()
        self._level = min(self._per_minute, self._level + (now - self._at) * self._per_minute / MINUTE_S)
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Takes `amount` out; less than 0 puts something back."""
        self._level = min(self._per_minute, self.level() - amount)

    def wait_s(self, wanted: float) -> float:
        """Seconds until the level is at least `wanted`."""
        return max(0.0, (wanted - self.level()) * MINUTE_S / self._per_minute)


class Quota:
    """What is left to one key. Without a limit, there is always enough."""

    def __init__(self, key: ApiKey, clock: Callable[[], float]) -> None:
        self._key = key
        self._requests = Bucket(key.requests_per_minute, clock) if key.requests_per_minute else None
        self._tokens = Bucket(key.tokens_per_minute, clock) if key.tokens_per_minute else None

    @property
    def counts_tokens(self) -> bool:
        return self._tokens is not None

    def admit(self) -> None:
        """Counts a request. It is admitted while any tokens are left; how many it takes shows only later.

        Raises:
            RateLimitError: The key has used up its requests or its tokens.
        """
        if self._tokens is not None and (wait_s := self._tokens.wait_s(1.0)):
            raise self._refusal(f"{self._key.tokens_per_minute} tokens", wait_s)
        if self._requests is not None:
            if wait_s := self._requests.wait_s(1.0):
                raise self._refusal(f"{self._key.requests_per_minute} requests", wait_s)
            self._requests.take(1.0)

    def charge(self, tokens: float) -> None:
        """Counts tokens; less than 0 gives back what was counted too much."""
        if self._tokens is not None:
            self._tokens.take(tokens)

    def _refusal(self, limit: str, wait_s: float) -> RateLimitError:
        error = RateLimitError(
            f"key {self._key.name} has used up its {limit} per minute; try again in {math.ceil(wait_s)} s"
        )
        error.retry_after_s = math.ceil(wait_s)
        return error


class Quotas:
    """The quotas of all keys since the daemon's start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quotas: dict[str, Quota] = {}

    def of(self, key: ApiKey) -> Quota:
        if key.key_id not in self._quotas:
            self._quotas[key.key_id] = Quota(key, self._clock)
        return self._quotas[key.key_id]
