"""Requests while no engine can take them: they wait, and are told what for if that takes too long."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from reheatd.gateway.app import Gateway
from tests.unit.test_gateway import CHAT, FakeEngine, World, served_by
from tests.waiting import HANGS_S, until


class Waiting(World):
    """A gateway whose requests wait for `engine_wait_s`."""

    def __init__(self, folder: Path, engine: FakeEngine, url: str, engine_wait_s: float) -> None:
        super().__init__(folder, engine, url)
        self.state = "ready"
        self.gateway = Gateway(
            self.pool,
            self.slots,
            self.swaps,
            self.store,
            engine_wait_s=engine_wait_s,
            readiness=lambda: self.state,
        )
        self.http = served_by(self.gateway, self.db)
        (self.replica,) = self.pool.replicas


def in_world(folder: Path, body: Callable[[Waiting], Awaitable[None]], engine_wait_s: float = HANGS_S) -> None:
    async def run() -> None:
        engine = FakeEngine()
        async with TestServer(engine.app()) as server:
            world = Waiting(folder, engine, str(server.make_url("")), engine_wait_s)
            try:
                await body(world)
                assert world.slots.in_flight() == 0
            finally:
                await world.close()

    asyncio.run(run())


async def settled() -> None:
    """Lets every other task run as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize("why", ["restarts", "is silent"])
def test_requests_wait_for_an_engine_that(why: str, tmp_path: Path) -> None:
    async def body(world: Waiting) -> None:
        if why == "restarts":
            world.replica.eject()
        else:
            world.replica.responsive = False
        asking = [asyncio.create_task(world.http.post(CHAT, json={})) for _ in range(5)]
        await settled()
        assert world.engine.body == {}
        if why == "restarts":
            world.replica.enter()
        else:
            world.replica.hear()
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
        assert world.gateway.counts.failed == 0

    in_world(tmp_path, body)


def test_a_request_that_no_engine_accepts_is_sent_when_one_does(tmp_path: Path) -> None:
    async def body(world: Waiting) -> None:
        url, world.replica.client.base_url = world.replica.client.base_url, "http://127.0.0.1:9"
        asking = asyncio.create_task(world.http.post(CHAT, json={}))
        await until(lambda: not world.replica.responsive)
        world.replica.client.base_url = url
        world.replica.hear()
        assert (await asking).status_code == 200

    in_world(tmp_path, body)


def test_a_request_that_waits_is_answered_by_the_version_that_took_the_promoted_ones_place(tmp_path: Path) -> None:
    async def body(world: Waiting) -> None:
        await world.swaps.promote(await world.publish(tmp_path), prove_delivery=False)
        url, world.replica.client.base_url = world.replica.client.base_url, "http://127.0.0.1:9"
        asking = asyncio.create_task(world.http.post(CHAT, json={}))
        await until(lambda: not world.replica.responsive)
        world.replica.eject()
        world.engine.names = {"base"}
        (world.store.path(1) / "adapter_model.safetensors").unlink()
        world.replica.client.base_url = url
        await world.swaps.admit(world.replica)
        world.replica.hear()
        answer = await asking
        assert (answer.status_code, answer.headers["x-reheatd-version"]) == (200, "policy-v0")
        assert world.gateway.counts.failed == 0

    in_world(tmp_path, body)


def test_a_request_that_waited_too_long_is_told_to_try_again(tmp_path: Path) -> None:
    async def body(world: Waiting) -> None:
        world.replica.eject()
        answer = await world.http.post(CHAT, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert answer.headers["retry-after"] == "5"

    in_world(tmp_path, body, engine_wait_s=0.01)


def test_while_the_server_starts_nobody_waits_and_everybody_learns_what_for(tmp_path: Path) -> None:
    async def body(world: Waiting) -> None:
        world.replica.eject()
        world.state = "starting: waiting for the engine"
        answer = await world.http.post(CHAT, json={})
        assert answer.status_code == 503
        assert "the server is starting: waiting for the engine" in answer.json()["error"]["message"]

    in_world(tmp_path, body)


def test_an_engine_whose_core_died_is_a_503_and_its_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "EngineCore encountered an issue."}}, status=500)

    async def body(world: Waiting) -> None:
        world.engine.answer, world.engine.health = broken, 503
        answer = await world.http.post(CHAT, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert answer.headers["retry-after"] == "5"
        world.engine.health = 200
        answer = await world.http.post(CHAT, json={})
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, "EngineCore encountered an issue.")

    in_world(tmp_path, body)
