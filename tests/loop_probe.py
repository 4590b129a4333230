"""Measures for how long an event loop gives other tasks no turn, as a client's stream would feel it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

TICK_S = 0.001


@dataclass
class LoopProbe:
    """The longest time that a task which was due had to wait, in seconds."""

    longest_s: float = 0.0


@asynccontextmanager
async def watched_loop() -> AsyncIterator[LoopProbe]:
    """Watches the running loop while the block runs."""
    probe = LoopProbe()

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            probe.longest_s = max(probe.longest_s, time.perf_counter() - due)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(TICK_S)
    try:
        yield probe
        await asyncio.sleep(2 * TICK_S)
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
