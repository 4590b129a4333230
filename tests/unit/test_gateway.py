"""The gateway in front of an engine that records what reaches it."""

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict
from starlette.applications import Starlette

from reheatd.adapters.store import AdapterStore
from reheatd.adapters.swap import SwapManager
from reheatd.api.errors import exception_handlers
from reheatd.database import connect
from reheatd.engine.slots import AdapterSlots
from reheatd.gateway.app import Gateway
from reheatd.gateway.surface import PROXIED_PATHS
from tests.access import as_job, guarded
from tests.serving_pool import pool_of
from tests.waiting import HANGS_S, until

TestServer.__test__ = False  # type: ignore[attr-defined]
CHAT = "/v1/chat/completions"


class FakeEngine:
    """Answers like vLLM; the last request is kept in `body` and `headers`."""

    def __init__(self) -> None:
        self.names = {"base"}
        self.health = 200
        self.body: dict[str, Any] = {}
        self.headers = CIMultiDict[str]()
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.echo

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self.check)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/load_lora_adapter", self.load)
        app.router.add_post("/v1/unload_lora_adapter", self.unload)
        app.router.add_post("/{path:.*}", self.generate)
        return app

    async def check(self, request: web.Request) -> web.Response:
        return web.Response(status=self.health)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.names]})

    async def load(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if not (Path(asked["lora_path"]) / "adapter_model.safetensors").is_file():
            return web.json_response({"error": {"message": "no adapter found"}}, status=404)
        self.names.add(asked["lora_name"])
        return web.Response(text="ok")

    async def unload(self, request: web.Request) -> web.Response:
        self.names.remove((await request.json())["lora_name"])
        return web.Response(text="ok")

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.body, self.headers = await request.json(), request.headers.copy()
        if self.body["model"] not in self.names:
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        return await self.answer(request)

    async def echo(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"path": request.path}, headers={"x-from-engine": "yes"})


def served_by(gateway: Gateway, db: sqlite3.Connection, **access: Any) -> httpx.AsyncClient:
    app = Starlette(routes=gateway.routes(), exception_handlers=exception_handlers())
    transport = httpx.ASGITransport(guarded(app, db, **access), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


class World:
    """A gateway on a fake engine, and a client of the gateway."""

    def __init__(self, folder: Path, engine: FakeEngine, url: str) -> None:
        self.engine = engine
        self.db = connect(folder / "db.sqlite3")
        self.store = AdapterStore(folder / "adapters", self.db)
        self.pool = pool_of(url)
        self.slots = AdapterSlots(self.pool, 4)
        self.swaps = SwapManager(self.store, self.slots, self.pool, proof_tolerance=0.1, drain_timeout_s=HANGS_S)
        self.gateway = Gateway(self.pool, self.slots, self.swaps, self.store)
        self.http = served_by(self.gateway, self.db)

    async def publish(self, folder: Path) -> int:
        source = folder / "trained"
        source.mkdir(exist_ok=True)
        (source / "adapter_model.safetensors").write_text("weights")
        (source / "adapter_config.json").write_text("{}")
        return (await self.store.publish(source, parent=0, base_model="tiny", base_digest="0", kind="rl")).version

    async def close(self) -> None:
        await self.http.aclose()
        await self.gateway.close()
        await self.pool.close()


def in_world(folder: Path, body: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        engine = FakeEngine()
        async with TestServer(engine.app()) as server:
            world = World(folder, engine, str(server.make_url("")))
            try:
                await body(world)
                assert world.slots.in_flight() == 0
            finally:
                await world.close()

    asyncio.run(run())


def test_only_the_model_is_changed_and_the_tap_told(tmp_path: Path) -> None:
    asked = {
        "model": "policy",
        "messages": [{"role": "user", "content": "é 😀 \u2028"}],
        "stream_options": None,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "user": "u",
        "logit_bias": {"5": -1.5},
        "vllm_xargs": {"a": [1, 2.5, None]},
        "seed": 2**63 - 1,
    }

    async def body(world: World) -> None:
        await world.swaps.promote(await world.publish(tmp_path), prove_delivery=False)
        headers = {"authorization": "Bearer k", "x-request-id": "r-1", "connection": "close", "x-mine": "1"}
        answer = await world.http.post(CHAT, json=asked, headers=headers)
        tagged = {"a": [1, 2.5, None], "reheatd_version": "policy-v1", "reheatd_source": "live"}
        assert world.engine.body == {**asked, "model": world.store.path(1).name, "vllm_xargs": tagged}
        assert world.engine.headers["x-mine"] == "1"
        assert world.engine.headers["x-request-id"] == "r-1"
        assert answer.json() == {"path": CHAT}
        assert answer.headers["x-from-engine"] == "yes"
        assert answer.headers["x-request-id"] == "r-1"
        assert answer.headers["x-reheatd-version"] == "policy-v1"
        assert world.gateway.counts.total == 1

    in_world(tmp_path, body)


DECODED = (CHAT, "/v1/completions", "/v1/chat/completions/batch", "/v1/responses", "/v1/messages")
"""Routes whose answers the policy writes."""


@pytest.mark.parametrize("path", sorted(PROXIED_PATHS))
def test_a_request_without_a_model_means_the_policy(path: str, tmp_path: Path) -> None:
    async def body(world: World) -> None:
        answer = await world.http.post(path, json={"prompt": "x"})
        assert answer.json() == {"path": path}
        tagged = {"vllm_xargs": {"reheatd_version": "policy-v0", "reheatd_source": "live"}} if path in DECODED else {}
        stored = {"store": False} if path == "/v1/responses" else {}
        assert world.engine.body == {"prompt": "x", "model": "base", **tagged, **stored}
        assert answer.headers["x-reheatd-version"] == "policy-v0"
        assert answer.headers["x-request-id"]

    in_world(tmp_path, body)


@pytest.mark.parametrize(
    ("content", "status", "code", "param", "message"),
    [
        (b"{", 400, "invalid_value", "body", "not valid JSON"),
        (b"\xff", 400, "invalid_value", "body", "not valid JSON"),
        (b"[" * 100_000, 400, "invalid_value", "body", "not valid JSON"),
        (b"", 400, "invalid_value", "body", "not valid JSON"),
        (b"[1]", 400, "invalid_value", "body", "must be a JSON object, got list"),
        (b'{"model": 3}', 400, "invalid_value", "model", "must be a string, got 3"),
        (b'{"model": null}', 400, "invalid_value", "model", "must be a string, got None"),
        (b'{"model": "gpt-4o"}', 404, "model_not_found", "model", "model 'gpt-4o' does not exist"),
        (b'{"model": "policy-v3"}', 404, "model_not_found", "model", "model 'policy-v3' does not exist"),
        (b'{"model": "job-1-1"}', 404, "model_not_found", "model", "model 'job-1-1' does not exist"),
    ],
)
def test_bad_requests_get_an_openai_error(
    content: bytes, status: int, code: str, param: str, message: str, tmp_path: Path
) -> None:
    async def body(world: World) -> None:
        answer = await world.http.post(CHAT, content=content)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
        assert message in error["message"]
        assert error["type"] == "invalid_request_error"
        assert world.engine.body == {}
        assert world.gateway.counts.failed == 0

    in_world(tmp_path, body)


def test_the_engines_errors_pass_through(tmp_path: Path) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        status = int(world_status[0])
        return web.json_response({"error": {"message": "max_tokens must be positive"}}, status=status)

    world_status = ["400"]

    async def body(world: World) -> None:
        world.engine.answer = refuse
        answer = await world.http.post(CHAT, json={"max_tokens": -1})
        assert answer.status_code == 400
        assert answer.json() == {"error": {"message": "max_tokens must be positive"}}
        assert world.gateway.counts.failed == 0
        world_status[0] = "500"
        assert (await world.http.post(CHAT, json={})).status_code == 500
        assert world.gateway.counts.failed == 1

    in_world(tmp_path, body)


def unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.json()["error"]["code"] == "engine_unavailable"


def test_an_engine_that_is_restarting_is_a_503_to_try_again(tmp_path: Path) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def body(world: World) -> None:
        world.engine.answer = hang_up
        unavailable(await world.http.post(CHAT, json={}))
        world.engine.answer = world.engine.echo
        # It is up again and has not got its adapters back yet.
        await world.swaps.promote(await world.publish(tmp_path), prove_delivery=False)
        world.engine.names = {"base"}
        unavailable(await world.http.post(CHAT, json={}))
        await world.swaps.admit(world.pool.replicas[0])
        assert (await world.http.post(CHAT, json={})).status_code == 200
        assert world.gateway.counts.failed == 2
        world.pool.replicas[0].client.base_url = "http://127.0.0.1:9"
        unavailable(await world.http.post(CHAT, json={}))

    in_world(tmp_path, body)


@pytest.mark.parametrize(("longest_s", "idle_s", "again"), [(3600.0, 0.0, True), (0.1, 0.4, False)])
def test_a_connection_that_was_idle_for_long_is_not_used_again(
    longest_s: float, idle_s: float, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reheatd.gateway.app.IDLE_CONNECTION_S", longest_s)
    connections: list[object] = []

    async def note(request: web.Request) -> web.StreamResponse:
        connections.append(request.transport)
        return web.Response()

    async def body(world: World) -> None:
        world.engine.answer = note
        for _ in range(2):
            await asyncio.sleep(idle_s)
            assert (await world.http.post(CHAT, json={})).status_code == 200

    in_world(tmp_path, body)
    assert (connections[0] is connections[1]) is again


def test_a_stream_the_engine_breaks_off_ends_with_an_error_event(tmp_path: Path) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b'data: {"n": 1}\n\n')
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.close()
        return stream

    async def body(world: World) -> None:
        world.engine.answer = half
        answer = await world.http.post(CHAT, json={"stream": True})
        first, last = [json.loads(line[6:]) for line in answer.text.splitlines() if line]
        assert first == {"n": 1}
        assert last["error"]["code"] == "engine_unavailable"
        assert world.gateway.counts.failed == 1

    in_world(tmp_path, body)


def test_models(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.swaps.promote(await world.publish(tmp_path), prove_delivery=False)
        models = (await world.http.get("/v1/models")).json()["data"]
        assert {model["id"]: model["root"] for model in models} == {
            "policy": "policy-v1",
            "base": "base",
            "policy-v0": "policy-v0",
            "policy-v1": "policy-v1",
        }
        assert (await world.http.get("/v1/models/policy")).json()["root"] == "policy-v1"
        missing = await world.http.get("/v1/models/policy-v9")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")

    in_world(tmp_path, body)


def test_pinned_versions_are_loaded_on_demand_and_rollout_adapters_pass(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish(tmp_path)
        answers = await asyncio.gather(*(world.http.post(CHAT, json={"model": "policy-v1"}) for _ in range(8)))
        assert {answer.headers["x-reheatd-version"] for answer in answers} == {"policy-v1"}
        assert world.slots.loaded() == ["policy-v1"]
        await world.slots.load("job-a.1-1", world.store.path(1))
        answer = await world.http.post(CHAT, json={"model": "job-a.1-1"}, headers=as_job("a"))
        assert (answer.status_code, answer.headers["x-reheatd-version"]) == (200, "job-a.1-1")

    in_world(tmp_path, body)


def test_swaps_under_load_lose_no_request(tmp_path: Path) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        model = (await request.json())["model"]
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await stream.prepare(request)
        for _ in range(3):
            await asyncio.sleep(0.003)
            # What vLLM does not do, so that a version that is unloaded too early would show.
            await stream.write(model.encode() if model in world_names() else b"gone")
        return stream

    names: list[set[str]] = []

    def world_names() -> set[str]:
        return names[0]

    async def body(world: World) -> None:
        names.append(world.engine.names)
        world.engine.answer = slow
        for _ in range(3):
            await world.publish(tmp_path)
        stop = asyncio.Event()
        served: list[str] = []

        async def ask() -> None:
            while not stop.is_set():
                answer = await world.http.post(CHAT, json={"stream": True})
                version = answer.headers["x-reheatd-version"]
                assert answer.status_code == 200
                number = int(version.removeprefix("policy-v"))
                assert answer.text == (world.store.path(number).name if number else "base") * 3
                served.append(version)

        asking = [asyncio.create_task(ask()) for _ in range(12)]
        for version in (1, 2, 3, 0, 2, 1):
            await world.swaps.promote(version, prove_delivery=False)
            before = len(served)
            await until(lambda: f"policy-v{version}" in served[before:] or any(task.done() for task in asking))  # noqa: B023
        stop.set()
        await asyncio.gather(*asking)
        assert set(served) == {"policy-v0", "policy-v1", "policy-v2", "policy-v3"}
        assert world.slots.loaded() == ["policy-v1"]
        assert world.gateway.counts.failed == 0

    in_world(tmp_path, body)
