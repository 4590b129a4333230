"""Adapter slots of the engines: which adapters are loaded on all of them, and which requests are in flight on each.

vLLM queues requests without a word if more adapters are in use than it has slots, and it serves a deleted adapter's
name until its last request ends. So the daemon keeps account itself: it never loads more adapters than there are slots,
and it unregisters an adapter only after its last request has drained. Every engine that serves holds the same adapters.
A change is made on all of them or undone, and an engine that can no longer be reached is ejected from the pool.

An engine knows a version by the name of its folder, which ends with the digest of the weights. So a name never stands
for other weights, not even on an engine that has outlived the database that numbered the versions.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reheatd.engine.client import EngineClient
from reheatd.engine.pool import EnginePool, Replica
from reheatd.errors import (
    AdapterInvalidError,
    ConflictError,
    EngineError,
    EngineUnavailableError,
    FilesUnreadableError,
    NotFoundError,
    SlotsFullError,
)

log = logging.getLogger(__name__)


class AdapterSlots:
    """Loads and unloads adapters, one change at a time, and counts requests in flight per model name."""

    def __init__(self, pool: EnginePool, max_loras: int) -> None:
        self._pool = pool
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

    def engine_name(self, name: str) -> str:
        """The name by which engines know the model `name`."""
        path = self._paths.get(name)
        return name if path is None else _engine_name(name, path)

    def in_flight(self, name: str | None = None) -> int:
        """Number of requests in flight on `name`, or on all models."""
        return self._in_flight.total() if name is None else self._in_flight[name]

    async def load(self, name: str, path: Path) -> None:
        """Loads the adapter in `path` as `name`; does nothing if it is loaded already.

        Raises:
            SlotsFullError: Every slot is taken, and none can be freed.
            AdapterInvalidError, EngineError: An engine failed to load the adapter; it is loaded on none.
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
        """Waits until no request is in flight on `name`, then unregisters it; does nothing if it is not loaded.

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
                    continue  # a request came in during the wait for the lock
                if name in self._paths:
                    await self._unregister(name)
                return

    async def drain(self, name: str, timeout_s: float) -> bool:
        """Waits until no request is in flight on `name`. Returns False if some still are after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._in_flight[name]:
                    await self._idle.setdefault(name, asyncio.Event()).wait()
        except TimeoutError:
            return False
        return True

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
        """Lets `name` be unloaded to make room when it is idle; for versions that were loaded because of a pin."""
        self._evictable.add(name)

    def keep(self, name: str) -> None:
        """Takes `mark_evictable` back, for a version that is promoted or staged."""
        self._evictable.discard(name)

    def expect(self, name: str, path: Path) -> None:
        """Arranges that engines load this adapter before they are admitted; called while none serves."""
        while name not in self._paths and len(self._paths) >= self._max_loras:
            idle = [other for other in self._paths if other in self._evictable and not self._in_flight[other]]
            if not idle:
                break  # what is in use is loaded, too; the promoted version must not wait for it
            del self._paths[idle[0]]
            self._evictable.discard(idle[0])
        self._paths[name] = path
        self._evictable.discard(name)

    async def admit(self, replica: Replica, verify: Callable[[], Awaitable[None]]) -> None:
        """Loads the adapters that the others hold on an engine that has started, then lets it take requests.

        Adapters that the engine still holds from before a restart of the daemon are unregistered. If no other engine
        serves, an adapter that this one refuses is given up.

        Args:
            verify: Awaited before the engine takes requests; if it raises an error, the engine is not admitted.

        Raises:
            AdapterInvalidError: The engine refuses an adapter that others hold.
            EngineTakenError: The engine serves another daemon.
            EngineError: The engine cannot be reached.
        """
        async with self._changing:
            await replica.client.unload_all()
            for name, path in list(self._paths.items()):
                try:
                    await _read_ahead(name, path)
                    await replica.client.load_adapter(_engine_name(name, path), path)
                except AdapterInvalidError as error:
                    if self._pool.serving():
                        raise
                    log.error("%s is not loaded any more: %s", name, error)
                    del self._paths[name]
                    self._evictable.discard(name)
            await verify()
            replica.enter()

    async def _load(self, name: str, path: Path) -> None:
        await _read_ahead(name, path)
        engine_name = _engine_name(name, path)
        await self._on_all(
            lambda client: client.load_adapter(engine_name, path), undo=lambda client: _unload(client, engine_name)
        )

    async def _on_all(
        self,
        change: Callable[[EngineClient], Awaitable[None]],
        undo: Callable[[EngineClient], Awaitable[None]] | None = None,
    ) -> None:
        """Makes a change on every engine that serves, or on none.

        An engine that fails to make a change, which others can make and none refuses, is ejected until it is admitted
        again.
        """
        replicas = self._pool.serving()
        if not replicas:
            raise EngineUnavailableError("no engine is ready to change its adapters; try again in a few seconds")
        failures = await _failures(replicas, change)
        refusals = [error for error in failures.values() if not isinstance(error, EngineError)]
        if refusals or len(failures) == len(replicas):
            if undo is not None:
                done = [replica for replica in replicas if replica not in failures]
                _take_out(await _failures(done, undo))
            raise (refusals or list(failures.values()))[0]
        _take_out(failures)

    async def _evict_one(self, wanted: str) -> None:
        for name in self._paths:
            if name in self._evictable and not self._in_flight[name]:
                log.info("unloading %s to make room for %s", name, wanted)
                await self._unregister(name)
                return
        raise SlotsFullError(
            f"no adapter slot is free for {wanted}: {', '.join(self._paths)} are loaded; "
            "retry later or raise engine.max_loras"
        )

    async def _unregister(self, name: str) -> None:
        # The adapter is forgotten first, without an await since the check that nobody uses it. A request that comes now
        # sees that it is not loaded, waits for the lock and loads it again.
        path = self._paths.pop(name)
        try:
            await self._on_all(lambda client: _unload(client, _engine_name(name, path)))
        except BaseException:
            self._paths[name] = path
            raise
        self._evictable.discard(name)


def _engine_name(name: str, path: Path) -> str:
    return path.name if path.name.startswith(f"{name}-") else name


async def _unload(client: EngineClient, name: str) -> None:
    with suppress(NotFoundError):  # the adapter is gone already, as wanted
        await client.unload_adapter(name)


async def _failures(
    replicas: list[Replica], change: Callable[[EngineClient], Awaitable[None]]
) -> dict[Replica, BaseException]:
    results = await asyncio.gather(*(change(replica.client) for replica in replicas), return_exceptions=True)
    return {
        replica: result for replica, result in zip(replicas, results, strict=True) if isinstance(result, BaseException)
    }


def _take_out(failures: dict[Replica, BaseException]) -> None:
    for replica, error in failures.items():
        log.error("%s gets no more requests, because a change of its adapters failed: %s", replica.name, error)
        replica.eject()


async def _read_ahead(name: str, path: Path) -> None:
    # The engine reads the files between two steps. From a cold disk, that would stall every stream for seconds.
    try:
        await asyncio.to_thread(_read_into_page_cache, path)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise AdapterInvalidError(f"adapter {name} cannot be read from {path}: {error.strerror}") from error
    except OSError as error:  # it may pass: too many open files, a network file system that is away
        raise FilesUnreadableError(
            f"adapter {name} cannot be read from {path} at the moment: {error.strerror}; try again later"
        ) from error


def _read_into_page_cache(folder: Path) -> None:
    for file in filter(Path.is_file, folder.iterdir()):
        with file.open("rb") as handle:
            while handle.read(1 << 20):
                pass
