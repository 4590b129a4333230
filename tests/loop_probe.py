"""Measures for how long an event loop gives other tasks no turn, as a client's stream would feel it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp


@dataclass
class LoopProbe:
    """The longest turn of a loop."""

    seconds: float = 0.0
    """By the clock. Other processes, and waits for the disk, count."""
    cpu_seconds: float = 0.0
    """By the processor time of the loop's thread: what the same turn takes on a machine with nothing else to do."""


@asynccontextmanager
async def watched_loop() -> AsyncIterator[LoopProbe]:
    """Watches every turn of the running loop while the block runs; this keeps one core busy."""
    probe, loop = LoopProbe(), asyncio.get_running_loop()
    began = time.perf_counter(), time.thread_time()
    handle: asyncio.Handle | None = None

    def turn() -> None:
        nonlocal began, handle
        now = time.perf_counter(), time.thread_time()
        probe.seconds = max(probe.seconds, now[0] - began[0])
        probe.cpu_seconds = max(probe.cpu_seconds, now[1] - began[1])
        began = now
        handle = loop.call_soon(turn)

    turn()
    try:
        yield probe
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    finally:
        assert handle is not None
        handle.cancel()


async def get(app: ASGIApp, path: str) -> list[bytes]:
    """The parts of an answer as a server would send them; a client would join them, which is a long turn itself."""
    parts: list[bytes] = []
    over = asyncio.Event()
    name, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": name,
        "raw_path": name.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"daemon")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }

    async def receive() -> dict[str, Any]:
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200
        elif message["type"] == "http.response.body":
            parts.append(message["body"])
            if not message.get("more_body"):
                over.set()

    await app(scope, receive, send)
    return parts
