"""Which headers pass the gateway, and what they mean to it."""

import gzip
import json
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from reheatd.gateway import request_body
from tests.unit.test_gateway import CHAT, World, in_world


def test_keys_cookies_and_headers_of_one_connection_stay_here(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        async def answer_with_cookie(request: web.Request) -> web.StreamResponse:
            headers = {
                "set-cookie": "engine=1",
                "x-hop": "1",
                "connection": "keep-alive, x-hop",
                "x-from-engine": "yes",
            }
            return web.json_response({}, headers=headers)

        world.engine.answer = answer_with_cookie
        secrets = {"authorization": "Bearer k", "cookie": "session=k", "x-api-key": "k", "api-key": "k"}
        hops = {"connection": "close, x-private", "x-private": "k", "te": "trailers", "proxy-authorization": "k"}
        answer = await world.http.post(CHAT, json={}, headers=secrets | hops | {"accept-encoding": "gzip, br"})
        assert answer.status_code == 200
        assert not {*secrets, "x-private", "te", "proxy-authorization"} & {
            name.lower() for name in world.engine.headers
        }
        assert world.engine.headers["accept-encoding"] == "identity"
        assert not {"set-cookie", "x-hop"} & set(answer.headers)
        assert answer.headers["x-from-engine"] == "yes"

    in_world(tmp_path, body)


def test_a_long_request_id_is_cut(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        answer = await world.http.post(CHAT, json={}, headers={"x-request-id": "r" * 60_000})
        assert answer.headers["x-request-id"] == world.engine.headers["x-request-id"] == "r" * 128

    in_world(tmp_path, body)


def test_a_body_may_be_packed_with_gzip_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "LARGEST", 1000)

    async def body(world: World) -> None:
        async def send(content: bytes, encoding: str = "gzip") -> httpx.Response:
            return await world.http.post(CHAT, content=content, headers={"content-encoding": encoding})

        packed = gzip.compress(json.dumps({"prompt": "hello"}).encode())
        assert (await send(packed)).status_code == 200
        assert world.engine.body["prompt"] == "hello"
        assert "content-encoding" not in world.engine.headers
        bomb = gzip.compress(b" " * 10**8)
        for content, encoding, says in (
            (bomb, "gzip", "more than 1000 bytes"),
            (packed[:-10], "gzip", "in the middle"),
            (b"{}", "gzip", "not valid gzip"),
            (b"{}", "br", "content-encoding is 'br'"),
        ):
            refused = await send(content, encoding)
            assert refused.status_code == 400
            assert says in refused.json()["error"]["message"]

    in_world(tmp_path, body)
