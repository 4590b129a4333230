"""The routes that clients may ask: what is passed on, what is counted, and what stays closed."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from reheatd.gateway.metering import total_tokens, usage_of
from reheatd.gateway.surface import POOLING, PROXIED_PATHS, SURFACE
from tests.fuzz.raw import BODIES
from tests.unit.test_access_requests import Limited, limited
from tests.unit.test_gateway import World, in_world
from tests.unit.test_traffic_metrics import watched
from tests.waiting import until

RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
CLOSED = (
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/v1/chat/completions/render"),
    ("POST", "/v1/messages/render"),
    ("POST", "/v1/responses/render"),
    ("POST", "/v1/completions/derender"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/inference/v1/generate"),
    ("POST", "/inference/v1/abort_requests"),
    ("POST", "/abort_requests"),
    ("POST", "/invocations"),
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("POST", "/pause"),
    ("POST", "/collective_rpc"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/update_weights"),
    ("POST", "/start_profile"),
    ("POST", "/scale_elastic_ep"),
    ("POST", "/fault_tolerance/apply"),
    ("GET", "/server_info"),
    ("GET", "/tokenizer_info"),
    ("GET", "/load"),
    ("GET", "/version"),
    ("GET", "/docs"),
)
ADAPTER = {"lora_name": "x", "lora_path": "/etc"}


def streams(*events: bytes, breaks: bool = False) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await stream.prepare(request)
        for event in events:
            await stream.write(event)
        if breaks:
            assert request.transport is not None
            request.transport.close()
        return stream

    return answer


def named(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data}, separators=(',', ':'))}\n\n".encode()


RESPONSE_EVENTS = (
    named("response.created", response={"usage": None}),
    named("response.output_text.delta", delta='"usage":{'),
    named("response.output_text.delta", delta="b"),
    named("response.output_text.done", text="ab"),
    named("response.completed", response={"usage": {"input_tokens": 12, "output_tokens": 30, "total_tokens": 42}}),
)
MESSAGE_EVENTS = (
    named("message_start", message={"usage": {"input_tokens": 12, "output_tokens": 0}}),
    named("content_block_start", index=0),
    named("content_block_delta", delta={"text": "a"}),
    named("content_block_delta", delta={"text": "b"}),
    named("content_block_stop", index=0),
    named("message_delta", usage={"input_tokens": 12, "output_tokens": 30}),
    named("message_stop"),
)


def test_the_engines_other_routes_are_closed(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        for method, path in CLOSED:
            answer = await world.http.request(method, path, json=ADAPTER)
            assert (answer.status_code, answer.json()["error"]["type"]) in (
                (404, "invalid_request_error"),
                (405, "invalid_request_error"),
            )
        assert world.engine.body == {} and world.engine.names == {"base"}

    in_world(tmp_path, body)


def test_a_key_for_inference_opens_all_of_them(tmp_path: Path) -> None:
    async def story(client: Limited) -> None:
        for path in PROXIED_PATHS:
            assert (await client.http.post(path, json={})).status_code == 200
            assert (await client.http.post(path, json={"model": "base"})).status_code == 404  # not for this key

    limited(tmp_path, story, models=["policy"])


def test_the_fuzzer_asks_all_of_them() -> None:
    assert BODIES.keys() >= PROXIED_PATHS


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, "/v1/embeddings", "/score"])
def test_the_promoted_version_is_leased_until_the_answer_has_ended(path: str, tmp_path: Path) -> None:
    async def body(world: World) -> None:
        release, arrived = asyncio.Event(), asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            arrived.set()
            await release.wait()
            return await streams(named("a"))(request)

        await world.swaps.promote(await world.publish(tmp_path), prove_delivery=False)
        world.engine.answer = slow
        asking = asyncio.create_task(world.http.post(path, json={"model": "policy", "stream": True}))
        await arrived.wait()
        assert world.slots.in_flight("policy-v1") == 1
        swapping = asyncio.create_task(world.swaps.promote(0, prove_delivery=False))
        await until(lambda: world.swaps.promoted == 0)
        assert world.slots.is_loaded("policy-v1")  # the swap does not unload what answers
        release.set()
        answer = await asking
        await swapping
        assert answer.headers["x-reheatd-version"] == "policy-v1"
        assert world.engine.body["model"] == world.store.path(1).name
        await until(lambda: not world.slots.in_flight("policy-v1"))

    in_world(tmp_path, body)


@pytest.mark.parametrize("route", [*POOLING], ids=lambda route: route.path)
def test_what_the_model_cannot_do_is_said(route: Any, tmp_path: Path) -> None:
    """By vLLM's answer to a route that it does not have, which is no missing adapter."""

    async def missing(request: web.Request) -> web.StreamResponse:
        return web.json_response({"detail": "Not Found"}, status=404)

    async def body(world: World) -> None:
        world.engine.answer = missing
        await world.swaps.promote(await world.publish(tmp_path), prove_delivery=False)
        for model in ("policy", "base"):
            answer = await world.http.post(route.path, json={"model": model, "input": "x"})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["type"]) == (404, "not_supported", "invalid_request_error")
            assert route.path in error["message"]
        assert world.gateway.counts.failed == 0

    in_world(tmp_path, body)


@pytest.mark.parametrize(
    ("field", "value"), [("background", True), ("previous_response_id", "resp_1"), ("previous_response_id", "")]
)
def test_what_would_need_stored_responses_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    async def body(world: World) -> None:
        answer = await world.http.post(RESPONSES, json={"input": "x", field: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
        assert world.engine.body == {}
        good = await world.http.post(RESPONSES, json={"input": "x", "store": True, "background": False})
        assert good.status_code == 200 and world.engine.body["store"] is False

    in_world(tmp_path, body)


def test_no_response_is_stored(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        for method, path in (("GET", f"{RESPONSES}/resp_1"), ("POST", f"{RESPONSES}/resp_1/cancel")):
            answer = await world.http.request(method, path)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (404, "not_found", "response_id")
        assert world.engine.body == {}

    in_world(tmp_path, body)


@pytest.mark.parametrize(("path", "events"), [(RESPONSES, RESPONSE_EVENTS), (MESSAGES, MESSAGE_EVENTS)])
@pytest.mark.parametrize("size", [7, 10_000])
def test_streams_with_named_events_are_charged_and_passed_on(
    path: str, events: tuple[bytes, ...], size: int, tmp_path: Path
) -> None:
    whole = b"".join(events)
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]

    async def story(client: Limited) -> None:
        client.world.engine.answer = streams(*pieces)
        answer = await client.http.post(path, json={"stream": True})
        assert answer.content == whole
        assert "stream_options" not in client.world.engine.body
        assert client.tokens_left == 1000 - 42

    limited(tmp_path, story, tokens_per_minute=1000)


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ({"usage": {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42}}, 42),
        ({"usage": {"input_tokens": 12, "output_tokens": 30}}, 42),
        ({"response": {"usage": {"input_tokens": 12, "output_tokens": 30, "total_tokens": 42}}}, 42),
        ({"message": {"usage": {"input_tokens": 12, "output_tokens": 0}}}, 12),
        ({"meta": {"billed_units": {"input_tokens": 42}}}, 42),
        ({"usage": None}, None),
        ({"response": {"usage": None}}, None),
        ({"error": {"message": "x"}}, None),
        ([1], None),
        ("x", None),
    ],
)
def test_tokens_are_counted_in_every_dialect(answer: Any, tokens: int | None) -> None:
    usage = usage_of(json.dumps(answer).encode())
    assert (None if usage is None else total_tokens(usage)) == tokens


def test_which_tokens_a_key_pays_for(tmp_path: Path) -> None:
    async def story(client: Limited) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return web.json_response({"usage": {"total_tokens": 1}})

        client.world.engine.answer = answer
        for route in SURFACE:
            before = client.tokens_left
            await client.http.post(route.path, json={})
            free = route.path in ("/tokenize", "/detokenize", "/v1/messages/count_tokens")
            assert before - client.tokens_left == (0 if free else 1), route.path

    limited(tmp_path, story, tokens_per_minute=1000)


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_a_stream_with_named_events_that_breaks_off_ends_with_a_named_error(path: str, tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.engine.answer = streams(named("a"), breaks=True)
        answer = await world.http.post(path, json={"stream": True})
        *_, last = answer.content.removesuffix(b"\n\n").split(b"\n\n")
        name, data = last.split(b"\n")
        assert name == b"event: error"
        error = json.loads(data.removeprefix(b"data: "))
        assert (error["type"], error["error"]["code"]) == ("error", "engine_unavailable")

    in_world(tmp_path, body)


@pytest.mark.parametrize(("path", "events"), [(RESPONSES, RESPONSE_EVENTS), (MESSAGES, MESSAGE_EVENTS)])
def test_the_first_token_is_not_the_first_event(path: str, events: tuple[bytes, ...], tmp_path: Path) -> None:
    pause_s = 0.1

    async def body(world: World) -> None:
        scrape = watched(world)

        async def answer(request: web.Request) -> web.StreamResponse:
            stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await stream.prepare(request)
            for event in events:
                if b"delta\n" in event:
                    await asyncio.sleep(pause_s)
                await stream.write(event)
            return stream

        world.engine.answer = answer
        await world.http.post(path, json={"stream": True})
        labels = {"route": path, "source": "client", "version": "policy-v0"}
        first = scrape("reheatd_time_to_first_token_seconds_sum", **labels)
        between = scrape("reheatd_time_between_tokens_seconds_sum", **labels)
        assert first is not None and first >= 0.9 * pause_s
        assert between is not None and between >= 0.9 * pause_s
        assert scrape("reheatd_requests_total", **labels, status="200") == 1

    in_world(tmp_path, body)
