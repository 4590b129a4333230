"""What a key's requests may cost and hold: limits at the gateway, and fields that are about the server."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from reheatd.access.keys import KeyStore
from reheatd.access.quotas import Quotas
from reheatd.gateway.surface import PROXIED_PATHS
from tests.unit.test_gateway import CHAT, World, in_world, served_by
from tests.waiting import until

USAGE = {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42}


class Limited:
    """A gateway and a client with a key that has limits, on a clock that a test moves."""

    def __init__(self, world: World, **limits: Any) -> None:
        self.world = world
        self.now = 0.0
        with world.db:
            key, token = KeyStore(world.db).create("ci", **limits)
        quotas = Quotas(lambda: self.now)
        self.quota = quotas.of(key)
        self.http = served_by(world.gateway, world.db, required=True, quotas=quotas)
        self.http.headers["authorization"] = f"Bearer {token}"

    @property
    def tokens_left(self) -> float:
        assert self.quota._tokens is not None
        return self.quota._tokens.level()

    async def ask(self, **body: Any) -> httpx.Response:
        return await self.http.post(CHAT, json=body)


def limited(folder: Path, story: Callable[[Limited], Coroutine[Any, Any, None]], **limits: Any) -> None:
    async def body(world: World) -> None:
        client = Limited(world, **limits)
        try:
            await story(client)
        finally:
            await client.http.aclose()

    in_world(folder, body)


def refused(answer: httpx.Response, retry_after: str) -> None:
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert answer.headers["retry-after"] == retry_after


def test_requests_beyond_the_minute_wait(tmp_path: Path) -> None:
    async def story(client: Limited) -> None:
        assert [(await client.ask()).status_code for _ in range(3)] == [200, 200, 429]
        refused(await client.ask(), "30")
        refused(await client.http.get("/v1/models"), "30")
        assert (await client.http.get("/health")).status_code == 404  # not served here, but not limited either
        client.now = 31.0
        assert (await client.ask()).status_code == 200

    limited(tmp_path, story, requests_per_minute=2)


def test_a_keys_own_concurrency_takes_the_place_of_the_servers(tmp_path: Path) -> None:
    async def story(client: Limited) -> None:
        release, arrived = asyncio.Event(), asyncio.Semaphore(0)

        async def slow(request: web.Request) -> web.StreamResponse:
            arrived.release()
            await release.wait()
            return await client.world.engine.echo(request)

        client.world.engine.answer = slow
        running = [asyncio.create_task(client.ask()) for _ in range(2)]
        for _ in running:
            await arrived.acquire()
        answer = await client.ask()
        refused(answer, "5")
        assert "concurrency of the key" in answer.json()["error"]["message"]
        release.set()
        assert [answer.status_code for answer in await asyncio.gather(*running)] == [200, 200]

    limited(tmp_path, story, concurrency=2)


def test_tokens_are_charged_as_the_engine_counts_them(tmp_path: Path) -> None:
    async def story(client: Limited) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return web.json_response({"choices": [], "usage": USAGE})

        client.world.engine.answer = answer
        assert (await client.ask(stream_options=None)).json()["usage"] == USAGE
        assert client.world.engine.body["stream_options"] is None
        assert client.tokens_left == 50 - 42
        assert (await client.ask()).status_code == 200
        refused(await client.ask(), "42")  # 34 below 0, and one must be there

    limited(tmp_path, story, tokens_per_minute=50)


@pytest.mark.parametrize("wanted", [False, True])
def test_a_stream_is_charged_and_looks_as_the_client_asked(wanted: bool, tmp_path: Path) -> None:
    words = [b'data: {"choices":[{"index":0,"delta":{"content":"w%d"}}]}\n\n' % number for number in range(5)]
    last = b'data: {"id":"1","choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n"
    done = b"data: [DONE]\n\n"

    async def story(client: Limited) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await stream.prepare(request)
            whole = b"".join([*words, last, done])
            for start in range(0, len(whole), 7):  # events do not come one by one
                await stream.write(whole[start : start + 7])
            return stream

        client.world.engine.answer = answer
        options = {"stream_options": {"include_usage": True}} if wanted else {}
        got = await client.ask(stream=True, **options)
        assert client.world.engine.body["stream_options"] == {"include_usage": True}
        assert got.content == b"".join([*words, *([last] if wanted else []), done])
        assert client.tokens_left == 1000 - 42

    limited(tmp_path, story, tokens_per_minute=1000)


def test_a_client_that_leaves_early_has_paid_for_what_it_got(tmp_path: Path) -> None:
    async def story(client: Limited) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await stream.prepare(request)
            await stream.write(b'data: {"choices":[{"index":0}]}\n\n' * 20)
            await until(lambda: client.tokens_left <= 1000 - 20 - 100)
            assert request.transport is not None
            request.transport.close()  # no count comes any more
            return stream

        client.world.engine.answer = answer
        await client.ask(stream=True, prompt="x" * 400)
        assert client.tokens_left > 1000 - 2 * 16 - 110  # 430 bytes, and the 20 events in steps of 16

    limited(tmp_path, story, tokens_per_minute=1000)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"kv_transfer_params": {"remote_host": "10.0.0.1"}}, "kv_transfer_params"),
        ({"ec_transfer_params": None}, "ec_transfer_params"),
        ({"prompt_embeds": "gASV"}, "prompt_embeds"),
        ({"lora_request": {"lora_path": "/etc"}}, "lora_request"),
        ({"lora_path": "/etc"}, "lora_path"),
        ({"vllm_xargs": {"kv_transfer_params": "x"}}, "vllm_xargs.kv_transfer_params"),
    ],
)
def test_fields_about_the_server_are_refused(body: dict[str, Any], param: str, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for path in PROXIED_PATHS:
            answer = await world.http.post(path, json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert world.engine.body == {}

    in_world(tmp_path, story)


@pytest.mark.parametrize("value", [True, 0, 1.5, "a"])
@pytest.mark.parametrize("field", ["messages", "structured_outputs"])
def test_fields_at_whose_type_the_engine_stumbles_are_refused(field: str, value: Any, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for path in (CHAT, "/v1/completions"):
            answer = await world.http.post(path, json={field: value})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
        assert world.engine.body == {}
        good = {"messages": [], "structured_outputs": None}
        assert (await world.http.post(CHAT, json=good)).status_code == 200

    in_world(tmp_path, story)


def test_the_taps_fields_are_the_gateways_alone(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        xargs = {"reheatd_version": "policy-v9", "reheatd_source": "rollout", "reheatd_more": 1, "mine": 2}
        headers = {"x-data-parallel-rank": "1", "x-mine": "1"}
        assert (await world.http.post(CHAT, json={"vllm_xargs": xargs}, headers=headers)).status_code == 200
        told = {"mine": 2, "reheatd_version": "policy-v0", "reheatd_source": "live"}
        assert world.engine.body["vllm_xargs"] == told
        assert "x-data-parallel-rank" not in world.engine.headers and world.engine.headers["x-mine"] == "1"
        await world.http.post("/tokenize", json={"vllm_xargs": xargs})
        assert world.engine.body["vllm_xargs"] == {"mine": 2}

    in_world(tmp_path, story)
