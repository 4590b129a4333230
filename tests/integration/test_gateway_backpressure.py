"""A client that reads slowly slows the engine down; the gateway does not fill its memory in between."""

import asyncio
import json
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.integration.serving import serving

CHUNK = b"data: " + b"x" * 65_530 + b"\n\n"
BUFFERED_BYTES = 32 << 20
"""More than all socket buffers on the way hold."""


def test_a_slow_reader_holds_the_engine_back(tmp_path: Path) -> None:
    sent = 0
    ended = asyncio.Event()

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        try:
            while True:
                await answer.write(CHUNK)
                sent += len(CHUNK)
        finally:
            ended.set()

    async def body() -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", pour)
        async with TestServer(app) as engine, serving(str(engine.make_url("")), tmp_path) as served:
            host, port = served.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 16)
            request = json.dumps({"model": "base", "stream": True}).encode()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(request), request)
            )
            assert await reader.readuntil(b"\r\n\r\n")
            # Whatever can be buffered is, and then nothing moves any more.
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.3)
            assert 0 < sent < BUFFERED_BYTES
            for _ in range(200):
                await reader.readexactly(1 << 16)
            assert sent > before
            # A client that leaves ends the generation, which would go on for ever.
            writer.close()
            await ended.wait()

    asyncio.run(body())
