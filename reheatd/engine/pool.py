"""The engines that serve the policy: which of them take requests, and which one takes the next.

All engines that serve hold the same adapters: `AdapterSlots.admit` lets an engine in once it has them all, and an
engine that misses a change is ejected. So a request may go to any of them; the choice only matters to the prefix
caches.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from reheatd.engine.busy_time import Asker, BusyTime
from reheatd.engine.client import EngineClient
from reheatd.errors import EngineUnavailableError

log = logging.getLogger(__name__)

AFFINITY_SLACK = 2
"""How many more requests than the least busy engine an engine may have and still be chosen for its prefix cache."""
WATCH_S = 2.0
ERRORS_OF_THE_DEAD = 3
"""Health checks in a row that must fail before an engine is taken for dead; a busy one may break a connection."""
SILENT_S = 60.0
"""Time after which an engine that accepts connections but does not answer is taken for dead, in seconds."""


class Replica:
    """One engine, with the name that logs and answers use for it.

    Args:
        owned: Folder that holds all adapters of this daemon; see `EngineClient`.
        api_key: The engine's key; None if it has none.
    """

    def __init__(self, name: str, url: str, owned: Path | None = None, api_key: str | None = None) -> None:
        self.name = name
        self.client = EngineClient(url, owned=owned, api_key=api_key)
        self.serving = False
        """Whether the engine takes requests: it runs, and it holds every adapter that the others hold."""
        self.able = asyncio.Event()
        """Set while the engine serves and is responsive."""
        self._responsive = True
        self.outstanding = 0
        """Number of requests in flight on the engine."""
        self.busy = BusyTime()
        """What the engine's time was spent on."""
        self.problem: str | None = None
        """Why the engine was not let in when it last started; None if it was."""
        self._ejected = asyncio.Event()
        self._heard_at = 0.0

    @property
    def url(self) -> str:
        return self.client.base_url

    @property
    def responsive(self) -> bool:
        """False while the engine does not answer; requests then go to other engines, or wait."""
        return self._responsive

    @responsive.setter
    def responsive(self, responsive: bool) -> None:
        self._responsive = responsive
        if self.serving and responsive:
            self.able.set()
        else:
            self.able.clear()

    @contextmanager
    def occupied(self, asker: Asker) -> Iterator[None]:
        """Counts one request in flight for as long as the context is open."""
        self.outstanding += 1
        self.busy.begin(asker)
        try:
            yield
        finally:
            self.outstanding -= 1
            self.busy.end(asker)

    def enter(self) -> None:
        """Lets the engine take requests from now on."""
        self._ejected.clear()
        self.serving = True
        self.responsive = True

    def eject(self) -> None:
        """Lets the engine take no more requests from now on; requests in flight on it continue."""
        self.serving = False
        self.able.clear()
        self._ejected.set()

    def hear(self) -> None:
        """Notes that the engine has just sent something: it is alive, even if it has no time for health checks."""
        self._heard_at = time.monotonic()
        if not self._responsive:
            self.responsive = True

    async def has_died(self) -> bool:
        """Whether the engine says that it cannot go on, or accepts no connection; asked after an error of its own."""
        try:
            return await self.client.health() == 503
        except TimeoutError:
            return False
        except aiohttp.ClientError:
            return True

    async def until_dead(self) -> None:
        """Waits until the engine is ejected, fails several checks, says that it cannot go on, or is silent for long."""
        self.hear()
        errors = 0
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
                if time.monotonic() - self._heard_at > SILENT_S:
                    log.warning("%s has not answered for %.0f s", self.name, SILENT_S)
                    return
            except aiohttp.ClientError as error:
                errors += 1
                self.responsive = False
                if errors == ERRORS_OF_THE_DEAD:
                    log.warning("%s fails its health checks: %s", self.name, error)
                    return
            else:
                if status == 503:
                    return
                errors = 0
                self.hear()


class EnginePool:
    """The replicas, and the choice among those that serve."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = tuple(replicas)

    def serving(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.serving]

    def pick(self, prefix: str | None = None, *, tried: Sequence[Replica] = ()) -> Replica:
        """Picks the replica for a request: among those with few requests in flight, the one that `prefix` belongs to.

        By rendezvous hashing, that depends only on the prefix and the replicas' names. So requests that begin alike
        share a prefix cache, even after a restart, and a replica that leaves or returns moves only its own share.

        Args:
            prefix: The beginning of the prompt. Without it, the least busy replica is picked.
            tried: Replicas that are not to be picked.

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

    @property
    def is_able(self) -> bool:
        """Whether an engine can take a request at once."""
        return any(replica.able.is_set() for replica in self.replicas)

    async def until_able(self, timeout_s: float) -> None:
        """Waits until an engine can take a request at once.

        Raises:
            EngineUnavailableError: None can within `timeout_s` seconds.
        """
        if self.is_able:
            return
        waiting = [asyncio.ensure_future(replica.able.wait()) for replica in self.replicas]
        try:
            able, _ = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        if not able:
            raise EngineUnavailableError("no engine is ready to answer; try again in a few seconds")

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.client.close()


def _weight(name: str, prefix: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{prefix}".encode(errors="surrogatepass"), digest_size=8).digest()
