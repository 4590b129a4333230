"""Questions of pages go through the real gateway: with a lease, to the pinned version, and until the reader leaves."""

import asyncio
from pathlib import Path
from typing import Any, cast

from aiohttp import web
from starlette.requests import Request

from reheatd.dashboard.asking import Asker, Question
from reheatd.entropy.meter import EntropyMeter, Sampler
from reheatd.entropy.probes import ProbeSet
from tests.unit.chat_support import events, row
from tests.unit.test_gateway import World, in_world
from tests.waiting import until


def asker_of(world: World) -> Asker:
    meter = EntropyMeter(cast(Sampler, None), ProbeSet.of([]), max_tokens=8, top_k=3, confidence=0.95, vocab_size=100)
    return Asker(world.gateway.routes(), meter)


def reader(left: asyncio.Event) -> Request:
    """Whoever looks at a page until `left` is set."""

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": "/ui/chat", "query_string": b"", "headers": [], "client": None}
    return Request({**scope, "scheme": "http", "server": ("daemon", 80)}, receive)


def question(model: str) -> Question:
    return Question(model, [{"role": "user", "content": "Hi"}], temperature=0.5, max_tokens=8)


def test_a_question_holds_a_lease_on_its_version_until_the_answer_ends(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish(tmp_path)
        go_on = asyncio.Event()

        async def stream(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await answer.prepare(request)
            first, *rest = events([row("one"), row(" two")])
            await answer.write(first)
            await go_on.wait()
            for event in rest:
                await answer.write(event[:7])  # events come in pieces
                await answer.write(event[7:])
            return answer

        world.engine.answer = stream
        asking = asyncio.ensure_future(asker_of(world).ask(reader(asyncio.Event()), [question("policy-v1")]))
        await until(lambda: world.slots.in_flight("policy-v1"))
        assert world.slots.is_loaded("policy-v1"), "it is loaded on demand"
        go_on.set()
        (answer,) = await asking
        assert (answer.version, answer.text, answer.problem) == ("policy-v1", "one two", None)
        assert [token.text for token in answer.tokens] == ["one", " two"]
        assert world.engine.body["model"] == world.store.path(1).name
        assert world.engine.body["vllm_xargs"] == {"reheatd_version": "policy-v1", "reheatd_source": "live"}
        assert world.gateway.counts.total == 1

    in_world(tmp_path, body)


def test_what_the_gateway_refuses_is_the_problem_of_that_question_alone(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        async def stream(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await answer.prepare(request)
            await answer.write(b"".join(events([row("Hi")])))
            return answer

        world.engine.answer = stream
        questions = [question("policy-v7"), question("policy"), question("base\0")]
        gone, served, unfit = await asker_of(world).ask(reader(asyncio.Event()), questions)
        assert gone.problem is not None and "'policy-v7' does not exist" in gone.problem
        assert (served.model, served.version, served.text) == ("policy", "policy-v0", "Hi")
        assert unfit.problem is not None and "null character" in unfit.problem
        world.pool.replicas[0].eject()
        (away,) = await asker_of(world).ask(reader(asyncio.Event()), [question("policy")])
        assert away.problem is not None and "engine" in away.problem

    in_world(tmp_path, body)


def test_the_engine_is_let_go_when_the_reader_leaves(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        began, left, cut = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def stream(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await answer.prepare(request)
            began.set()
            try:
                while True:
                    await answer.write(events([row("on")], finish=None)[1])
                    await asyncio.sleep(0.01)
            finally:
                cut.set()

        world.engine.answer = stream
        asking = asyncio.ensure_future(asker_of(world).ask(reader(left), [question("policy")]))
        await began.wait()
        left.set()
        (answer,) = await asking
        assert answer.problem is not None, "nobody reads it"
        await cut.wait()

    in_world(tmp_path, body)
