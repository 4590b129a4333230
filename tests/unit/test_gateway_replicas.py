"""The gateway in front of several engines."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from reheatd.adapters.swap import SwapManager
from reheatd.engine.slots import AdapterSlots
from reheatd.gateway.app import Gateway
from tests.serving_pool import pool_of
from tests.unit.test_gateway import CHAT, FakeEngine, World, served_by
from tests.waiting import HANGS_S


class Engines(World):
    """A gateway on two engines."""

    def __init__(self, folder: Path, engines: list[FakeEngine], urls: list[str]) -> None:
        super().__init__(folder, engines[0], urls[0])
        self.engines = engines
        self.pool = pool_of(*urls)
        self.slots = AdapterSlots(self.pool, 4)
        self.swaps = SwapManager(self.store, self.slots, self.pool, proof_tolerance=0.1, drain_timeout_s=HANGS_S)
        self.gateway = Gateway(self.pool, self.slots, self.swaps, self.store)
        self.http = served_by(self.gateway, self.db)


def in_world(folder: Path, body: Callable[[Engines], Awaitable[None]]) -> None:
    async def run() -> None:
        engines = [FakeEngine(), FakeEngine()]
        async with TestServer(engines[0].app()) as first, TestServer(engines[1].app()) as second:
            world = Engines(folder, engines, [str(server.make_url("")) for server in (first, second)])
            try:
                await body(world)
                assert world.slots.in_flight() == 0
                assert [replica.outstanding for replica in world.pool.replicas] == [0, 0]
            finally:
                await world.close()

    asyncio.run(run())


def ask(text: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}]}


def test_questions_spread_over_the_engines_and_the_same_one_meets_its_cache(tmp_path: Path) -> None:
    async def body(world: Engines) -> None:
        answers = [await world.http.post(CHAT, json=ask(str(number % 20))) for number in range(40)]
        by = [answer.headers["x-reheatd-engine"] for answer in answers]
        assert set(by) == {"engine-1", "engine-2"}
        assert by[:20] == by[20:]

    in_world(tmp_path, body)


def test_a_burst_of_one_question_is_shared(tmp_path: Path) -> None:
    async def body(world: Engines) -> None:
        release, arrived = asyncio.Event(), asyncio.Semaphore(0)

        async def slow(request: web.Request) -> web.StreamResponse:
            arrived.release()
            await release.wait()
            return web.json_response({})

        for engine in world.engines:
            engine.answer = slow
        asking = [asyncio.create_task(world.http.post(CHAT, json=ask("same"))) for _ in range(10)]
        for _ in asking:
            await arrived.acquire()
        assert sorted(replica.outstanding for replica in world.pool.replicas) == [4, 6]
        release.set()
        await asyncio.gather(*asking)

    in_world(tmp_path, body)


def test_an_engine_that_accepts_no_connection_is_passed_over(tmp_path: Path) -> None:
    async def body(world: Engines) -> None:
        world.pool.replicas[0].client.base_url = "http://127.0.0.1:9"
        answers = [await world.http.post(CHAT, json=ask(str(number))) for number in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.headers["x-reheatd-engine"] for answer in answers} == {"engine-2"}
        assert world.gateway.counts.failed == 0
        world.pool.replicas[1].client.base_url = "http://127.0.0.1:9"
        assert (await world.http.post(CHAT, json=ask("x"))).status_code == 503

    in_world(tmp_path, body)


def test_a_request_that_kills_an_engine_is_not_taken_to_the_next(tmp_path: Path) -> None:
    async def body(world: Engines) -> None:
        asked = 0

        async def die(request: web.Request) -> web.StreamResponse:
            nonlocal asked
            asked += 1
            assert request.transport is not None
            request.transport.close()
            return web.Response()

        for engine in world.engines:
            engine.answer = die
        answer = await world.http.post(CHAT, json=ask("poison"))
        assert (answer.status_code, asked) == (503, 1)
        assert answer.headers["retry-after"]

    in_world(tmp_path, body)


def test_engines_that_are_out_get_nothing(tmp_path: Path) -> None:
    async def body(world: Engines) -> None:
        world.pool.replicas[1].eject()
        answers = [await world.http.post(CHAT, json=ask(str(number))) for number in range(10)]
        assert {answer.headers["x-reheatd-engine"] for answer in answers} == {"engine-1"}
        world.pool.replicas[0].eject()
        refused = await world.http.post(CHAT, json=ask("x"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")

    in_world(tmp_path, body)
