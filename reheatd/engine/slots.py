"""Adapter slots of one engine: what is loaded, and which requests are in flight on it.

vLLM queues requests without a word when more adapters are in use than it has slots, and it serves a deleted adapter's
name until its last request ends. So the daemon keeps the account itself: it never loads more than there are slots, and
it unregisters an adapter only after its last request has drained.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from reheatd.errors import AdapterInvalidError, ConflictError

log = logging.getLogger(__name__)


class AdapterEndpoints(Protocol):
    """The part of `EngineClient` that the slots use."""

    async def load_adapter(self, name: str, path: Path) -> None: ...
    async def unload_adapter(self, name: str) -> None: ...


class AdapterSlots:
    """Loads and unloads adapters, one change at a time, and counts requests in flight per model name."""

    def __init__(self, client: AdapterEndpoints, max_loras: int) -> None:
        self._client = client
        self._max_loras = max_loras
        self._paths: OrderedDict[str, Path] = OrderedDict()
        """Loaded adapters, least recently used first."""
        self._evictable: set[str] = set()
        self._in_flight: Counter[str] = Counter()
        self._idle: dict[str, asyncio.Event] = {}
        self._changing = asyncio.Lock()

    def is_loaded(self, name: str) -> bool:
        return name in self._paths

    def loaded(self) -> list[str]:
        return list(self._paths)

    def in_flight(self, name: str | None = None) -> int:
        """Requests in flight on `name`, or on all models."""
        return self._in_flight.total() if name is None else self._in_flight[name]

    async def load(self, name: str, path: Path) -> None:
        """Loads the adapter in `path` as `name`; does nothing when it is loaded.

        Raises:
            ConflictError: Every slot is taken and none can be given up.
            AdapterInvalidError, EngineError: From the engine.
        """
        async with self._changing:
            if name in self._paths:
                if self._paths[name] != path:
                    raise ConflictError(f"{name} is loaded from {self._paths[name]}; names are never reused")
                return
            if len(self._paths) >= self._max_loras:
                await self._evict_one(name)
            await self._load(name, path)
            self._paths[name] = path

    async def unload(self, name: str, drain_timeout_s: float = 60.0) -> None:
        """Waits until no request is in flight on `name`, then unregisters it; does nothing when it is not loaded.

        Raises:
            ConflictError: Requests are still in flight after `drain_timeout_s` seconds; the adapter stays loaded.
        """
        deadline = asyncio.get_running_loop().time() + drain_timeout_s
        while True:
            left = deadline - asyncio.get_running_loop().time()
            if not await self.drain(name, max(left, 0)):
                raise ConflictError(f"{self.in_flight(name)} requests are still in flight on {name}; it stays loaded")
            async with self._changing:
                if self._in_flight[name]:
                    continue  # one came in while the lock was awaited
                if name in self._paths:
                    await self._unregister(name)
                return

    async def drain(self, name: str, timeout_s: float) -> bool:
        """Waits until no request is in flight on `name`; False when some still are after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._in_flight[name]:
                    await self._idle.setdefault(name, asyncio.Event()).wait()
        except TimeoutError:
            return False
        return True

    async def drain_all(self, timeout_s: float) -> bool:
        """Waits until no request is in flight at all; False when some still are after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                for name in list(self._in_flight):
                    await self.drain(name, timeout_s)
        except TimeoutError:
            return False
        return self.in_flight() == 0

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        """Counts one request in flight on `name` for as long as the context is open."""
        self._in_flight[name] += 1
        if name in self._paths:
            self._paths.move_to_end(name)
        try:
            yield
        finally:
            self._in_flight[name] -= 1
            if not self._in_flight[name]:
                del self._in_flight[name]
                if event := self._idle.pop(name, None):
                    event.set()

    def mark_evictable(self, name: str) -> None:
        """Lets `name` be unloaded, when idle, to make room: for versions loaded because a request pinned them."""
        self._evictable.add(name)

    def keep(self, name: str) -> None:
        """Takes `mark_evictable` back: for a version that is promoted or staged."""
        self._evictable.discard(name)

    async def reload_all(self) -> None:
        """Loads again what was loaded, after the engine was restarted; an adapter it now refuses is given up.

        Raises:
            EngineError: The engine cannot be reached; what is loaded is to be loaded again by the next call.
        """
        async with self._changing:
            for name, path in list(self._paths.items()):
                try:
                    await self._load(name, path)
                except AdapterInvalidError as error:
                    log.error("%s is not loaded any more after the engine's restart: %s", name, error)
                    del self._paths[name]
                    self._evictable.discard(name)

    async def _load(self, name: str, path: Path) -> None:
        # The engine reads the files between two steps: from a cold disk that stalls every stream for seconds.
        try:
            await asyncio.to_thread(_read_into_page_cache, path)
        except OSError as error:
            raise AdapterInvalidError(f"adapter {name} cannot be read from {path}: {error.strerror}") from error
        await self._client.load_adapter(name, path)

    async def _evict_one(self, wanted: str) -> None:
        for name in self._paths:
            if name in self._evictable and not self._in_flight[name]:
                log.info("unloading %s to make room for %s", name, wanted)
                await self._unregister(name)
                return
        raise ConflictError(
            f"no adapter slot is free for {wanted}: {', '.join(self._paths)} are loaded; "
            "retry later or raise engine.max_loras"
        )

    async def _unregister(self, name: str) -> None:
        # Forgotten first, without an await since the check that nobody uses it: a request that comes now sees that it
        # is not loaded, waits for the lock and loads it again.
        path = self._paths.pop(name)
        try:
            await self._client.unload_adapter(name)
        except BaseException:
            self._paths[name] = path
            raise
        self._evictable.discard(name)


def _read_into_page_cache(folder: Path) -> None:
    for file in filter(Path.is_file, folder.iterdir()):
        with file.open("rb") as handle:
            while handle.read(1 << 20):
                pass
