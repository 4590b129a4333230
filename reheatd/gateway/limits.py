"""Limits the number of requests that a client may have in flight."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from reheatd.errors import RateLimitError


class ConcurrencyLimit:
    """Counts the requests in flight of each client, and refuses those beyond `most`; None means no limit."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def admit(self, client: str) -> Iterator[None]:
        """Counts one request of `client` for as long as the context is open.

        Raises:
            RateLimitError: The client already has as many requests in flight as it may have.
        """
        if self._most is not None and self._in_flight[client] >= self._most:
            raise RateLimitError(
                f"{self._in_flight[client]} requests with this key are in flight, which is the limit "
                "(server.max_concurrent_per_key); wait for one of them to end"
            )
        self._in_flight[client] += 1
        try:
            yield
        finally:
            self._in_flight[client] -= 1
            if not self._in_flight[client]:
                del self._in_flight[client]


def client_of(request: Request) -> str:
    """The client that sent a request, by its API key or, without one, by its address."""
    key = request.headers.get("authorization")
    return key if key else f"host {request.client.host if request.client else 'unknown'}"
