"""Waiting in tests: for what happens, however slow the machine is."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

HANGS_S = 300.0
"""What takes so long never comes: no wait in these tests takes a slow machine a tenth of it."""


def wait_until(condition: Callable[[], T | None]) -> T:
    """Waits until `condition` returns something true, and returns it."""
    deadline = time.monotonic() + HANGS_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not true after {HANGS_S:.0f} s"
        time.sleep(0.02)
    return found


async def until(condition: Callable[[], T | None], details: Callable[[], str] = lambda: "") -> T:
    """The same in an event loop; `details` are shown where it waits in vain."""
    deadline = time.monotonic() + HANGS_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not true after {HANGS_S:.0f} s; {details()}"
        await asyncio.sleep(0.002)
    return found
