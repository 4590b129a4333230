"""`GET /reheatd/v1/events` over a real socket: what comes, what comes again, and how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from reheatd.api import event_stream
from reheatd.api.schemas import DaemonEvent
from reheatd.process.http_server import HttpServer
from reheatd.process.instance import listen, url_of
from tests.unit.api_support import ApiWorld
from tests.unit.control_figures import window
from tests.waiting import until

EVENTS = "/reheatd/v1/events"
Story = Callable[[httpx.AsyncClient, ApiWorld, HttpServer], Coroutine[Any, Any, None]]


def served(folder: Path, story: Story, *, drain_timeout_s: float = 60.0) -> None:
    async def run() -> None:
        async with ApiWorld(folder) as world:
            assert isinstance(world, ApiWorld)
            with listen("127.0.0.1", 0) as listener:
                server = HttpServer((world.app(), listener), drain_timeout_s=drain_timeout_s)
                server.start()
                url = url_of("127.0.0.1", listener.getsockname()[1])
                async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
                    await story(client, world, server)
                world.events.close()
                await server.drain()

    asyncio.run(run())


async def blocks(answer: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The blocks of a stream, each as its fields; a comment has an empty name."""
    block: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            block[name] = value
        elif block:
            yield block
            block = {}


async def take(stream: AsyncIterator[dict[str, str]], count: int) -> list[dict[str, str]]:
    return [await anext(stream) for _ in range(count)]


def test_what_happens_comes_with_its_kind_and_its_number(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, world: ApiWorld, server: HttpServer) -> None:
        world.ledger.requested("before")
        async with client.stream("GET", EVENTS) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            stream = blocks(answer)
            assert (await anext(stream))["id"] == "1"
            world.ledger.requested("after é\n")
            world.events.on_window(window(0, "ok", 1.9))
            entry, measured = await take(stream, 2)
            assert (entry["id"], entry["event"]) == ("2", "journal")
            assert json.loads(entry["data"])["entry"]["reason"] == "after é\n"
            assert "id" not in measured and measured["event"] == "window"
            for block in (entry, measured):
                assert DaemonEvent.model_validate_json(block["data"]).root.kind == block["event"]

    served(tmp_path, story)


@pytest.mark.parametrize("how", ["header", "parameter"])
def test_who_comes_back_misses_nothing(how: str, tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, world: ApiWorld, server: HttpServer) -> None:
        for number in range(1, 121):
            world.ledger.requested(f"request {number}")
        asked: dict[str, Any] = {"params": {"after": 10}}
        if how == "header":  # a browser's URL is that of its first request
            asked = {"params": {"after": 2}, "headers": {"last-event-id": "10"}}
        async with client.stream("GET", EVENTS, **asked) as answer:
            stream = blocks(answer)
            assert (await anext(stream))["id"] == "10"
            found = [block["id"] for block in await take(stream, 110)]
            assert found == [str(number) for number in range(11, 121)]

    served(tmp_path, story)


@pytest.mark.parametrize("after", ["-1", "a", "", "1.5", "9" * 30, "5"])
def test_a_number_that_is_none_of_the_journal_is_refused(after: str, tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, world: ApiWorld, server: HttpServer) -> None:
        for params, headers in (({"after": after}, None), (None, {"last-event-id": after})):
            answer = await client.get(EVENTS, params=params, headers=headers)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")
        assert not world.events._subscriptions

    served(tmp_path, story)


def test_a_connection_on_which_nothing_happens_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)

    async def story(client: httpx.AsyncClient, world: ApiWorld, server: HttpServer) -> None:
        async with client.stream("GET", EVENTS) as answer:
            stream = blocks(answer)
            assert [block.get("") for block in await take(stream, 4)][1:] == ["nothing new"] * 3
            world.ledger.requested("at last")
            while (block := await anext(stream)).get("event") != "journal":
                assert block == {"": "nothing new"}

    served(tmp_path, story)


def test_who_leaves_makes_room(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, world: ApiWorld, server: HttpServer) -> None:
        world.events._most = 1
        async with client.stream("GET", EVENTS) as answer:
            await anext(blocks(answer))
            full = await client.get(EVENTS)
            assert (full.status_code, full.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert int(full.headers["retry-after"]) > 0
        await until(lambda: not world.events._subscriptions)
        async with client.stream("GET", EVENTS) as answer:
            assert answer.status_code == 200

    served(tmp_path, story)


def test_the_stop_of_the_daemon_waits_for_no_listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for one that reads, nor for one that does not and whose connection is full."""
    monkeypatch.setattr(event_stream, "FAREWELL_S", 0.05)

    async def story(client: httpx.AsyncClient, world: ApiWorld, server: HttpServer) -> None:
        stuck = await stuck_listener(client, world)
        async with client.stream("GET", EVENTS) as answer:
            stream = blocks(answer)
            await anext(stream)
            world.events.close()
            async with asyncio.timeout(60):
                assert [block async for block in stream] == []
                await server.drain()
        stuck.close()

    served(tmp_path, story, drain_timeout_s=3600)


def test_a_listener_that_takes_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "STUCK_S", 0.05)

    async def story(client: httpx.AsyncClient, world: ApiWorld, server: HttpServer) -> None:
        stuck = await stuck_listener(client, world)
        await until(lambda: not world.events._subscriptions)
        stuck.close()

    served(tmp_path, story)


async def stuck_listener(client: httpx.AsyncClient, world: ApiWorld) -> asyncio.StreamWriter:
    """A listener that does not read, and for which more has happened than the sockets take."""
    _, stuck = await asyncio.open_connection(client.base_url.host, client.base_url.port, limit=1)
    stuck.write(f"GET {EVENTS} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    await until(lambda: world.events._subscriptions)
    for _ in range(200):
        world.ledger.requested("x" * 100_000)
    return stuck


def test_a_question_for_the_headers_alone_follows_nothing(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, world: ApiWorld, server: HttpServer) -> None:
        answer = await client.head(EVENTS)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        assert not world.events._subscriptions

    served(tmp_path, story)
