"""The engines that serve the policy: which of them take requests, and which one takes the next.

All engines that serve hold the same adapters: `AdapterSlots.admit` lets one in once it has them all, and one that
misses a change is taken out. So it does not matter to a request which of them answers it; it matters to the prefix
cache.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import aiohttp

from reheatd.engine.client import EngineClient
from reheatd.errors import EngineUnavailableError

log = logging.getLogger(__name__)

AFFINITY_SLACK = 2
"""Requests that an engine may have beyond the least busy one's and still be chosen for what its prefix cache holds."""
WATCH_S = 2.0
SILENT_S = 60.0
"""An engine that accepts connections and has not answered for so long is taken for dead."""


class Replica:
    """One engine, by the name that logs and answers use for it."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.client = EngineClient(url)
        self.serving = False
        """Whether it takes requests: it is up and holds every adapter that the others hold."""
        self.responsive = True
        """False while it does not answer; others are preferred then."""
        self.outstanding = 0
        """Requests in flight on it."""
        self._ejected = asyncio.Event()

    @property
    def url(self) -> str:
        return self.client.base_url

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Counts one request in flight for as long as the context is open."""
        self.outstanding += 1
        try:
            yield
        finally:
            self.outstanding -= 1

    def enter(self) -> None:
        """From here on it takes requests."""
        self._ejected.clear()
        self.responsive = True
        self.serving = True

    def eject(self) -> None:
        """From here on it takes no requests; requests in flight on it go on."""
        self.serving = False
        self._ejected.set()

    async def until_dead(self) -> None:
        """Returns when it was ejected, refuses connections, says that it cannot go on, or is silent for long."""
        answered = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(WATCH_S):
                    await self._ejected.wait()
                return
            except TimeoutError:
                pass
            try:
                status = await self.client.health()
            except TimeoutError:
                self.responsive = False
                if time.monotonic() - answered > SILENT_S:
                    log.warning("%s has not answered for %.0f s", self.name, SILENT_S)
                    return
            except aiohttp.ClientError:
                return
            else:
                if status == 503:
                    return
                answered = time.monotonic()
                self.responsive = True


class EnginePool:
    """The replicas, and the choice among those that serve."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = tuple(replicas)

    def serving(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.serving]

    def pick(self, prefix: str | None = None, *, tried: Sequence[Replica] = ()) -> Replica:
        """The replica for a request: among those with few requests in flight, the one its `prefix` belongs to.

        Which one that is follows from the prefix and the replicas' names alone (rendezvous hashing): requests that
        begin alike meet in one prefix cache, also after a restart, and a replica that leaves or returns moves only its
        own share.

        Args:
            prefix: How the prompt begins; None: the least busy replica.
            tried: Not to be chosen.

        Raises:
            EngineUnavailableError: No other replica serves.
        """
        able = [replica for replica in self.serving() if replica not in tried]
        able = [replica for replica in able if replica.responsive] or able
        if not able:
            raise EngineUnavailableError("no engine is ready to answer; try again in a few seconds")
        least = min(replica.outstanding for replica in able)
        if prefix is None:
            return next(replica for replica in able if replica.outstanding == least)
        near = [replica for replica in able if replica.outstanding <= least + AFFINITY_SLACK]
        return max(near, key=lambda replica: _weight(replica.name, prefix)) if len(near) > 1 else near[0]

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.client.close()


def _weight(name: str, prefix: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{prefix}".encode(errors="surrogatepass"), digest_size=8).digest()
