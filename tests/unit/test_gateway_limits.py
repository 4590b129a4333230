"""What the gateway does not wait for: a client with too many requests, an engine that has fallen silent."""

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from reheatd.gateway.limits import ConcurrencyLimit
from tests.unit.test_gateway import CHAT, World, in_world


def test_a_client_beyond_its_limit_is_told_to_wait_and_others_are_not(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.gateway._limit = ConcurrencyLimit(2)
        release = asyncio.Event()
        arrived = asyncio.Semaphore(0)

        async def slow(request: web.Request) -> web.StreamResponse:
            arrived.release()
            await release.wait()
            return await world.engine.echo(request)

        world.engine.answer = slow
        mine = {"authorization": "Bearer mine"}
        running = [asyncio.create_task(world.http.post(CHAT, json={}, headers=mine)) for _ in range(2)]
        for _ in running:
            await arrived.acquire()
        refused = await world.http.post(CHAT, json={}, headers=mine)
        assert refused.status_code == 429
        assert refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        other = asyncio.create_task(world.http.post(CHAT, json={}, headers={"authorization": "Bearer other"}))
        await arrived.acquire()
        release.set()
        assert [answer.status_code for answer in await asyncio.gather(*running, other)] == [200] * 3
        assert (await world.http.post(CHAT, json={}, headers=mine)).status_code == 200
        assert world.gateway.counts.failed == 0

    in_world(tmp_path, body)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_falls_silent_is_an_error_and_not_a_hang(stream: bool, tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.gateway._silence_timeout_s = 0.2

        async def silent(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            if stream:
                await answer.prepare(request)
                await answer.write(b'data: {"first": 1}\n\n')
            await asyncio.sleep(30)
            return answer

        world.engine.answer = silent
        answer = await world.http.post(CHAT, json={"stream": stream})
        if stream:
            first, second, _ = answer.text.split("\n\n")
            assert first == 'data: {"first": 1}'
            error = json.loads(second.removeprefix("data: "))["error"]
        else:
            assert answer.status_code == 504
            error = answer.json()["error"]
        assert error["code"] == "engine_timeout"
        assert "server.silence_timeout_s" in error["message"]
        assert world.gateway.counts.failed == 1

    in_world(tmp_path, body)
