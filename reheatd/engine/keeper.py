"""Starts the daemon's engines, or joins running ones, and keeps each in the pool for as long as it can serve."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from reheatd.engine.pool import EnginePool, Replica
from reheatd.errors import ReheatdError
from reheatd.process.supervisor import Command, Supervisor

log = logging.getLogger(__name__)

RETRY_S = 2.0
"""Pause before an engine that was not admitted to the pool is tried again."""


class EngineKeeper:
    """Brings every replica into the pool, at the start and again after it has died.

    Args:
        commands: The commands that start the replicas as children, in the pool's order; empty if they run elsewhere.
        admit: Lets a replica that generates tokens take requests, with the adapters that the others hold.
        startup_timeout_s: Longest wait for a replica's first token, in seconds.
    """

    def __init__(
        self,
        pool: EnginePool,
        supervisor: Supervisor,
        commands: Sequence[Command],
        admit: Callable[[Replica], Awaitable[None]],
        *,
        startup_timeout_s: float,
    ) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self._commands = commands
        self._admit = admit
        self._startup_timeout_s = startup_timeout_s

    async def start(self) -> None:
        """Starts the children and waits until all serve; of engines that run elsewhere, waits for the first.

        Raises:
            ReheatdError: A child did not start, or none of the engines elsewhere can be used.
        """
        replicas = self._pool.replicas
        if self._commands:
            pairs = zip(replicas, self._commands, strict=True)
            await _all(*(self._start_child(replica, command) for replica, command in pairs))
        else:
            await _first(*(self._join(replica) for replica in replicas))

    async def watch(self) -> None:
        """Watches engines that run elsewhere, and brings each back into the pool after it was lost. Never returns."""
        async with asyncio.TaskGroup() as watching:
            for replica in self._pool.replicas:
                watching.create_task(self._watch(replica))

    @property
    def are_children(self) -> bool:
        return bool(self._commands)

    async def _start_child(self, replica: Replica, command: Command) -> None:
        child = await self._supervisor.start(command)
        await child.ready_when(self._join(replica))
        child.keep_running(
            on_exit=partial(self._lost, replica),
            on_restart=partial(self._join, replica),
            until_dead=replica.until_dead,
        )

    async def _watch(self, replica: Replica) -> None:
        while True:
            if replica.serving:
                await replica.until_dead()
                self._lost(replica)
            try:
                await self._join(replica)
            except ReheatdError as error:
                log.error("%s at %s gets no requests: %s", replica.name, replica.url, error)
                await asyncio.sleep(RETRY_S)

    async def _join(self, replica: Replica) -> None:
        started = time.monotonic()
        try:
            await replica.client.wait_ready(self._startup_timeout_s)
            await self._admit(replica)
        except ReheatdError as error:
            replica.problem = error.message
            raise
        replica.problem = None
        log.info("%s serves after %.0f s", replica.name, time.monotonic() - started)

    def _lost(self, replica: Replica) -> None:
        replica.eject()
        left, total = len(self._pool.serving()), len(self._pool.replicas)
        consequence = f"{left} of {total} engines still serve" if left else "requests get 503 until it is back"
        log.warning("%s gets no more requests; %s", replica.name, consequence)


async def _all(*work: "Awaitable[None]") -> None:
    """Waits for all of `work`; if one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _first(*work: "Awaitable[None]") -> None:
    """Waits for the first of `work` that succeeds, and cancels the others.

    Raises:
        ReheatdError: None succeeded; this is the first failure.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    failures: list[ReheatdError] = []
    try:
        for done in asyncio.as_completed(tasks):
            try:
                await done
            except ReheatdError as error:
                failures.append(error)
            else:
                return
        raise failures[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
