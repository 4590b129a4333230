"""How many requests a client may have in flight."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from reheatd.errors import RateLimitError


class ConcurrencyLimit:
    """Counts requests in flight for each client, and turns away those beyond `most`; None: never."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def admit(self, client: str) -> Iterator[None]:
        """Counts one request of `client` for as long as the context is open.

        Raises:
            RateLimitError: It has as many in flight as it may.
        """
        if self._most is not None and self._in_flight[client] >= self._most:
            raise RateLimitError(
                f"{self._in_flight[client]} requests with this key are in flight, which is as many as may be; wait for "
                "one to end (server.max_concurrent_per_key)"
            )
        self._in_flight[client] += 1
        try:
            yield
        finally:
            self._in_flight[client] -= 1
            if not self._in_flight[client]:
                del self._in_flight[client]


def client_of(request: Request) -> str:
    """Who asks: by API key, or by address where there is none."""
    key = request.headers.get("authorization")
    return key if key else f"host {request.client.host if request.client else 'unknown'}"
