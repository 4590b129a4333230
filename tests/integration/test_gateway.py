"""The official OpenAI client through the gateway to real vLLM."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.access import as_job
from tests.integration.serving import Serving, serving
from tests.random_adapter import random_adapter
from tests.waiting import HANGS_S

QUESTION: Any = [{"role": "user", "content": "What is 2 + 3?"}]
LONG = 400
"""Tokens that take seconds to generate."""


def with_serving(engine: str, folder: Path, body: Callable[[Serving], Awaitable[None]]) -> None:
    async def run() -> None:
        async with serving(engine, folder) as served:
            await body(served)

    asyncio.run(run())


def test_the_openai_client_works(engine: str, tmp_path: Path) -> None:
    async def body(served: Serving) -> None:
        api = served.openai
        raw = await api.chat.completions.with_raw_response.create(
            model="policy", messages=QUESTION, max_tokens=8, n=2, temperature=1.0, seed=1, logprobs=True,
            top_logprobs=3, user="u", extra_body={"return_token_ids": True},
        )  # fmt: skip
        assert raw.headers["x-reheatd-version"] == "policy-v0"
        assert raw.headers["x-request-id"]
        chat = raw.parse()
        assert len(chat.choices) == 2
        assert chat.usage is not None
        assert chat.usage.completion_tokens > 0
        content = chat.choices[0].logprobs and chat.choices[0].logprobs.content
        assert content
        assert len(content[0].top_logprobs) == 3
        assert len(chat.choices[0].model_extra["token_ids"]) == len(content)  # type: ignore[index]

        again = await api.chat.completions.create(
            model="policy", messages=QUESTION, max_tokens=8, n=2, temperature=1.0, seed=1
        )
        assert [choice.message.content for choice in again.choices] == [
            choice.message.content for choice in chat.choices
        ]
        text = await api.completions.create(model="base", prompt="2 + 3 =", max_tokens=4, echo=True)
        assert text.choices[0].text.startswith("2 + 3 =")
        assert {model.id async for model in await api.models.list()} == {"policy", "base", "policy-v0"}
        assert (await api.models.retrieve("policy")).id == "policy"

    with_serving(engine, tmp_path, body)


def test_streams_arrive_as_they_are_generated(engine: str, tmp_path: Path) -> None:
    async def body(served: Serving) -> None:
        async def stream_once() -> tuple[float, int, str]:
            """After which share of the whole time the first chunk came, how many came, and the whole text."""
            times, text, usage = [time.monotonic()], "", None
            stream = await served.openai.chat.completions.create(
                model="policy", messages=QUESTION, max_tokens=64, temperature=0, stream=True,
                stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
            )  # fmt: skip
            async for chunk in stream:
                times.append(time.monotonic())
                usage = chunk.usage or usage
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
            assert usage is not None and usage.completion_tokens == 64
            return (times[1] - times[0]) / (times[-1] - times[0]), len(times), text

        # A busy machine may hold one stream up, or join its chunks, but not those of each stream.
        shares, chunks, texts = zip(*[await stream_once() for _ in range(5)], strict=True)
        assert min(shares) < 0.5 and max(chunks) > 30
        (text,) = set(texts)
        whole = await served.openai.chat.completions.create(
            model="policy", messages=QUESTION, max_tokens=64, temperature=0, extra_body={"ignore_eos": True}
        )
        assert whole.choices[0].message.content == text

        parts = [part async for part in await served.openai.completions.create(
            model="policy", prompt="1", max_tokens=5, stream=True, stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )]  # fmt: skip
        # The engine itself joins two tokens into one event now and then.
        assert len(parts) > 2 and parts[-1].usage is not None and parts[-1].usage.completion_tokens == 5

    with_serving(engine, tmp_path, body)


def test_errors_are_those_of_the_openai_api(engine: str, tmp_path: Path) -> None:
    async def body(served: Serving) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            await served.openai.chat.completions.create(model="gpt-4o", messages=QUESTION)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        for bad in ({"temperature": -1}, {"top_logprobs": 1000, "logprobs": True}, {"max_tokens": "many"}):
            with pytest.raises(openai.BadRequestError):
                await served.openai.chat.completions.create(model="policy", messages=QUESTION, extra_body=bad)
        with pytest.raises(openai.BadRequestError, match="maximum context length"):
            await served.openai.completions.create(model="policy", prompt="1 " * 2000, stream=True)
        assert served.gateway.counts.failed == 0

    with_serving(engine, tmp_path, body)


async def metric(served: Serving, name: str) -> float:
    """What vLLM itself counts."""
    async with httpx.AsyncClient(timeout=HANGS_S) as http:
        text = (await http.get(f"{served.engine.base_url}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith(f"vllm:{name}{{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_engine(stream: bool, engine: str, tmp_path: Path) -> None:
    async def body(served: Serving) -> None:
        asked = {"messages": QUESTION, "max_tokens": LONG, "stream": stream, "ignore_eos": True, "n": 4}

        async def ask() -> None:
            async with (
                httpx.AsyncClient(timeout=HANGS_S) as http,
                http.stream("POST", f"{served.url}/v1/chat/completions", json=asked) as answer,
            ):
                async for _ in answer.aiter_bytes():
                    pass

        before = await metric(served, "generation_tokens_total")
        asking = asyncio.create_task(ask())
        while not await metric(served, "num_requests_running"):
            await asyncio.sleep(0.05)
        assert served.slots.in_flight("base") == 1
        assert not asking.done()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await served.slots.drain("base", HANGS_S)
        while await metric(served, "num_requests_running"):
            await asyncio.sleep(0.05)
        generated = await metric(served, "generation_tokens_total") - before
        assert generated < 4 * LONG
        print(f"the engine stopped after {generated:.0f} of {4 * LONG} tokens")
        assert served.gateway.counts.failed == 0

    with_serving(engine, tmp_path, body)


def test_versions_are_pinned_and_loaded_on_demand(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    async def greedy(served: Serving, model: str, headers: dict[str, str] | None = None) -> tuple[str, str]:
        raw = await served.openai.chat.completions.with_raw_response.create(
            model=model,
            messages=QUESTION,
            max_tokens=24,
            temperature=0,
            extra_body={"ignore_eos": True},
            extra_headers=headers,
        )
        return raw.headers["x-reheatd-version"], raw.parse().choices[0].message.content or ""

    async def body(served: Serving) -> None:
        for seed in range(1, 7):  # more than there are slots
            await served.publish(random_adapter(tmp_path / "trained", tiny_policy, seed=30 + seed, rank=4))
        await served.swaps.promote(2, prove_delivery=False)
        texts = {name: await greedy(served, name) for name in ("base", *(f"policy-v{n}" for n in range(7)), "policy")}
        assert [version for version, _ in texts.values()] == [
            "policy-v0", *(f"policy-v{n}" for n in range(7)), "policy-v2"
        ]  # fmt: skip
        assert texts["policy"] == texts["policy-v2"]
        assert texts["base"] == texts["policy-v0"]
        assert len({text for _, text in texts.values()}) == 7
        assert served.slots.is_loaded("policy-v2")
        assert len(served.slots.loaded()) == 4

        await served.slots.unload(served.slots.loaded()[-1])
        await served.slots.load("job-x.1-1", served.store.path(1))
        assert await greedy(served, "job-x.1-1", as_job("x")) == ("job-x.1-1", texts["policy-v1"][1])

    with_serving(engine, tmp_path, body)


def test_tokenize_passes(engine: str, tmp_path: Path) -> None:
    async def body(served: Serving) -> None:
        async with httpx.AsyncClient() as http:
            tokens = (await http.post(f"{served.url}/tokenize", json={"prompt": "2 + 3"})).json()["tokens"]
            text = (await http.post(f"{served.url}/detokenize", json={"tokens": tokens})).json()["prompt"]
        assert text == "2 + 3"

    with_serving(engine, tmp_path, body)
