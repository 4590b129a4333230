"""The middleware that asks for the engine's key on every route."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from reheatd.engine.key_check import RequireKey

PATHS = ("/health", "/v1/models", "/v1/load_lora_adapter", "/invocations", "/metrics", "/collective_rpc", "/")
RIGHT = {"authorization": "Bearer s3cret"}


async def _open(request: Request) -> Response:
    return PlainTextResponse("open")


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> RequireKey:
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    return RequireKey(Starlette(routes=[Route(path, _open, methods=["GET", "OPTIONS"]) for path in PATHS]))


def statuses(app: RequireKey, headers: Any, method: str = "GET") -> list[int]:
    async def body() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine") as client:
            return [(await client.request(method, path, headers=headers)).status_code for path in PATHS]

    return asyncio.run(body())


def test_the_key_opens_everything(app: RequireKey) -> None:
    assert statuses(app, RIGHT) == [200] * len(PATHS)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer s3cre"},
        {"authorization": "Bearer s3cret2"},
        {"authorization": "s3cret"},
        {"authorization": "Basic s3cret"},
        {"x-api-key": "s3cret"},
        [("authorization", "Bearer s3cret"), ("authorization", "Bearer other")],
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_without_it_only_the_health_check_answers(app: RequireKey, headers: Any, method: str) -> None:
    assert statuses(app, headers, method) == [200] + [401] * (len(PATHS) - 1)


def test_a_websocket_is_closed(app: RequireKey) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(app({"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
