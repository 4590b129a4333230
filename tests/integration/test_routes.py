"""The gateway's other routes on real vLLM: OpenAI's Responses, Anthropic's Messages, and what the policy cannot do."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from reheatd.gateway.surface import POOLING
from tests.integration.serving import Serving, serving
from tests.random_adapter import random_adapter
from tests.waiting import HANGS_S, until

QUESTION: Any = [{"role": "user", "content": "What is 2 + 3?"}]
LONG = 600
"""Tokens that take seconds to generate."""


def with_serving(
    engine: str, folder: Path, body: Callable[[Serving, httpx.AsyncClient], Awaitable[None]], model: Path | None = None
) -> None:
    """Runs `body`; with a `model`, an adapter of it is promoted as version 1."""

    async def run() -> None:
        async with (
            serving(engine, folder) as served,
            httpx.AsyncClient(base_url=served.url, timeout=HANGS_S, trust_env=False) as http,
        ):
            if model is not None:
                await served.publish(random_adapter(folder / "trained", model, seed=51))
                await served.swaps.promote(1, prove_delivery=False)
            await body(served, http)
            assert served.gateway.counts.failed == 0

    asyncio.run(run())


def claude(served: Serving) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=served.url, api_key="none", max_retries=0, timeout=HANGS_S)


def test_openais_responses(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    asked: Any = {"input": "What is 2 + 3?", "max_output_tokens": 8, "temperature": 0}

    async def body(served: Serving, http: httpx.AsyncClient) -> None:
        raw = await served.openai.responses.with_raw_response.create(model="policy", **asked)
        assert raw.headers["x-reheatd-version"] == "policy-v1"
        whole = raw.parse()
        assert whole.model == served.store.path(1).name
        assert whole.output_text and whole.usage is not None and whole.usage.output_tokens == 8
        deltas = ""
        event: Any = None
        async for event in await served.openai.responses.create(model="policy", stream=True, **asked):
            if event.type == "response.output_text.delta":
                deltas += event.delta
        assert deltas == whole.output_text
        assert event.type in ("response.completed", "response.incomplete")
        assert event.response.model == whole.model
        base = await served.openai.responses.create(model="base", **asked)
        assert base.model == "base" and base.output_text != whole.output_text
        unusable: list[Any] = [{"background": True}, {"previous_response_id": whole.id}]
        for wrong in unusable:
            with pytest.raises(openai.BadRequestError, match=next(iter(wrong))):
                await served.openai.responses.create(model="policy", **asked, **wrong)
        with pytest.raises(openai.NotFoundError, match="no responses are stored"):
            await served.openai.responses.retrieve(whole.id)
        with pytest.raises(openai.NotFoundError, match="no responses are stored"):
            await served.openai.responses.cancel(whole.id)
        with pytest.raises(openai.NotFoundError, match="gpt-4o"):
            await served.openai.responses.create(model="gpt-4o", **asked)

    with_serving(engine, tmp_path, body, tiny_policy)


def test_anthropics_messages(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    asked: Any = {"messages": QUESTION, "max_tokens": 8, "extra_body": {"temperature": 0}}

    async def body(served: Serving, http: httpx.AsyncClient) -> None:
        async with claude(served) as api:
            raw = await api.messages.with_raw_response.create(model="policy", **asked)
            assert raw.headers["x-reheatd-version"] == "policy-v1"
            whole = await raw.parse()
            assert whole.model == served.store.path(1).name and whole.usage.output_tokens == 8
            (block,) = whole.content
            assert block.type == "text" and block.text
            async with api.messages.stream(model="policy", **asked) as stream:
                assert "".join([text async for text in stream.text_stream]) == block.text
                assert (await stream.get_final_message()).usage.output_tokens == 8
            counted = await api.messages.count_tokens(model="policy", messages=QUESTION)
            assert counted.input_tokens == whole.usage.input_tokens
            with pytest.raises(anthropic.NotFoundError, match="gpt-4o"):
                await api.messages.create(model="gpt-4o", **asked)
            with pytest.raises(anthropic.BadRequestError):
                await api.messages.create(model="policy", messages=QUESTION, max_tokens=-1)

    with_serving(engine, tmp_path, body, tiny_policy)


def test_several_chats_at_once(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    async def body(served: Serving, http: httpx.AsyncClient) -> None:
        asked = {"model": "policy", "max_tokens": 8, "temperature": 0}
        chats = [QUESTION, [{"role": "user", "content": "And 4 + 4?"}]]
        answer = await http.post("/v1/chat/completions/batch", json={**asked, "messages": chats})
        assert answer.status_code == 200, answer.text
        texts = [choice["message"]["content"] for choice in answer.json()["choices"]]
        one = await http.post("/v1/chat/completions", json={**asked, "messages": chats[1]})
        assert len(texts) == 2 and texts[1] == one.json()["choices"][0]["message"]["content"]
        assert answer.json()["model"] == served.store.path(1).name

    with_serving(engine, tmp_path, body, tiny_policy)


def test_scores_of_next_tokens(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    async def body(served: Serving, http: httpx.AsyncClient) -> None:
        asked = {"query": "2 + 3 = ", "items": ["5", "6"], "label_token_ids": [10, 11]}
        scores = {}
        for model in ("policy", "base"):
            answer = await http.post("/generative_scoring", json={"model": model, **asked})
            assert answer.status_code == 200, answer.text
            scores[model] = [each["score"] for each in answer.json()["data"]]
        assert len(scores["policy"]) == 2 and scores["policy"] != scores["base"]

    with_serving(engine, tmp_path, body, tiny_policy)


def test_what_a_policy_cannot_do_is_an_error_of_openais_form(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    async def body(served: Serving, http: httpx.AsyncClient) -> None:
        with pytest.raises(openai.NotFoundError, match="does not support /v1/embeddings") as error:
            await served.openai.embeddings.create(model="policy", input="2 + 3")
        assert error.value.code == "not_supported"
        for route in POOLING:
            answer = await http.post(route.path, json={"model": "policy", "input": "2 + 3"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_supported"), answer.text
        for path in ("/tokenizer_info", "/server_info", "/is_paused", "/version"):  # the engine runs in its dev mode
            assert (await http.get(path)).status_code == 404
        for path in ("/pause", "/collective_rpc", "/reset_prefix_cache", "/v1/load_lora_adapter", "/invocations"):
            assert (await http.post(path, json={})).status_code in (404, 405)

    with_serving(engine, tmp_path, body, tiny_policy)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/responses", {"input": "What is 2 + 3?", "max_output_tokens": LONG}),
        ("/v1/messages", {"messages": QUESTION, "max_tokens": LONG}),
    ],
)
def test_a_stream_keeps_its_version_through_a_swap(
    path: str, asked: dict[str, Any], engine: str, tiny_policy: Path, tmp_path: Path
) -> None:
    """The stream that began on version 1 ends on it, and version 1 stays until then."""

    async def body(served: Serving, http: httpx.AsyncClient) -> None:
        version, own_name = "policy-v1", served.store.path(1).name
        request = {"model": "policy", "stream": True, "temperature": 0, "ignore_eos": True, **asked}
        async with http.stream("POST", path, json=request) as answer:
            assert answer.status_code == 200 and answer.headers["x-reheatd-version"] == version
            chunks = answer.aiter_text()
            text = await anext(chunks)
            swapping = asyncio.create_task(served.swaps.promote(0))
            await until(lambda: served.swaps.promoted == 0)
            quick = await http.post(path, json={"model": "policy", **asked} | {"max_output_tokens": 4, "max_tokens": 4})
            assert quick.headers["x-reheatd-version"] == "policy-v0" and quick.json()["model"] == "base"
            assert served.slots.in_flight(version) == 1 and served.slots.is_loaded(version)
            text += "".join([chunk async for chunk in chunks])
        assert own_name in text and '"error"' not in text.replace('"error":null', "")
        assert '"type":"response.completed"' in text or '"type":"response.incomplete"' in text or "message_stop" in text
        await swapping
        await until(lambda: not served.slots.is_loaded(version))

    with_serving(engine, tmp_path, body, tiny_policy)
