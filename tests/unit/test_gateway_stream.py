"""Streams that the gateway relays, to clients that leave before the end."""

import asyncio
import gc
import json
from pathlib import Path
from typing import Any

from aiohttp import web
from starlette.applications import Starlette

from reheatd.gateway.stream import RelayedStream
from tests.access import guarded
from tests.unit.test_gateway import CHAT, World, in_world
from tests.waiting import HANGS_S, until

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


async def ask_and_leave(world: World) -> bytes:
    """Asks for a stream, leaves after its first bytes, and returns them."""
    got, begun = b"", asyncio.Event()
    asked = [{"type": "http.request", "body": json.dumps({"stream": True}).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal got
        got += message.get("body", b"")
        if got:
            begun.set()

    scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b"", "headers": []}
    app = Starlette(routes=world.gateway.routes())
    async with asyncio.timeout(HANGS_S):
        await guarded(app, world.db)(scope, receive, send)
    return got


def streams_in_memory() -> int:
    gc.collect()
    return sum(isinstance(each, RelayedStream) for each in gc.get_objects())


def test_nothing_is_kept_of_a_stream_whose_client_left(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        over = asyncio.Event()

        async def answer(request: web.Request) -> web.StreamResponse:
            stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await stream.prepare(request)
            await stream.write(EVENT)
            await over.wait()
            return stream

        world.engine.answer = answer
        for _ in range(5):
            assert await ask_and_leave(world) == EVENT
        await until(lambda: not streams_in_memory())
        assert (world.gateway.counts.failed, world.pool.replicas[0].outstanding) == (0, 0)
        over.set()

    in_world(tmp_path, story)
