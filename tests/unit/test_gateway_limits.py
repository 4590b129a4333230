"""What the gateway does not wait for: a client with too many requests, an engine that has fallen silent."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from reheatd.errors import BadInputError
from reheatd.gateway.limits import ConcurrencyLimit, LogprobLimit
from reheatd.gateway.silence import Silence
from tests.access import as_job
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


def quick_answers(world: World, silence_s: float) -> None:
    """Sets the longest silence, and an engine that has taken a millisecond per token so far."""
    world.gateway._silence = Silence(world.pool, least_s=silence_s, longest=1)
    for replica in world.pool.replicas:
        replica.client.patience.learn(1000, 1.0)


def test_a_long_answer_in_one_piece_may_take_as_long_as_its_tokens(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        quick_answers(world, silence_s=0.2)

        async def thinking(_: web.Request) -> web.StreamResponse:
            await asyncio.sleep(0.5)
            return web.json_response({"choices": []})

        world.engine.answer = thinking
        long, short = await asyncio.gather(
            *(world.http.post(CHAT, json={"messages": [], "max_tokens": tokens}) for tokens in (4000, 4))
        )
        assert (long.status_code, short.status_code) == (200, 504)

    in_world(tmp_path, body)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_falls_silent_is_an_error_and_not_a_hang(stream: bool, tmp_path: Path) -> None:
    async def body(world: World) -> None:
        quick_answers(world, silence_s=0.2)

        async def silent(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            if stream:
                await answer.prepare(request)
                await answer.write(b'data: {"first": 1}\n\n')
            await asyncio.sleep(30)
            return answer

        world.engine.answer = silent
        answer = await world.http.post(CHAT, json={"stream": stream, "messages": [], "max_tokens": 1})
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


CHAT_OF_8 = {"messages": [], "n": 2, "max_tokens": 4}


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (CHAT_OF_8 | {"logprobs": True}, 0),
        (CHAT_OF_8 | {"top_logprobs": 0}, 0),
        (CHAT_OF_8 | {"logprobs": True, "top_logprobs": 5}, 40),
        ({"messages": [], "top_logprobs": 5, "max_completion_tokens": 3, "max_tokens": 9}, 15),
        ({"messages": [], "top_logprobs": 5}, 500),
        ({"prompt": "a", "logprobs": 5}, 80),
        ({"prompt": ["a", "b"], "logprobs": 5, "max_tokens": 4}, 40),
        ({"prompt": [[1, 2], [3]], "logprobs": 5, "max_tokens": 4}, 40),
        ({"prompt": [1, 2, 3], "logprobs": 5, "max_tokens": 4}, 20),
        ({"messages": [], "n": "2", "max_tokens": None, "top_logprobs": "5"}, 0),
        ({"messages": [[{}], [{}], [{}]], "max_tokens": 4, "top_logprobs": 5}, 60),
        ({"input": "a", "max_output_tokens": 4, "top_logprobs": 5}, 20),
        ({"input": "a", "top_logprobs": 5}, 500),
    ],
)
def test_log_probabilities_are_counted(body: dict[str, Any], asked: int) -> None:
    LogprobLimit(max(asked, 1), 100).check(body)
    LogprobLimit(None, 100).check(body)
    if asked:
        with pytest.raises(
            BadInputError, match=rf"are {asked} log-probabilities, and a request may ask for {asked - 1}"
        ):
            LogprobLimit(asked - 1, 100).check(body)


def test_a_client_may_not_keep_the_engine_busy_with_logprobs_but_a_job_may(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.gateway._logprob_limit = LogprobLimit(39, 100)
        asked = CHAT_OF_8 | {"logprobs": True, "top_logprobs": 5}
        refused = await world.http.post(CHAT, json=asked)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "top_logprobs"
        assert (await world.http.post(CHAT, json=asked | {"n": 1})).status_code == 200
        assert (await world.http.post(CHAT, json=asked, headers=as_job("a"))).status_code == 200

    in_world(tmp_path, body)
