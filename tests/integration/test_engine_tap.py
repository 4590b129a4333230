"""The entropy tap in real vLLM: every decoded token counted once, for whom it was decoded, with its exact entropy."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from reheatd.entropy.live import tap_socket
from reheatd.entropy.moments import Moments
from reheatd.entropy.tap_report import tags
from tests.engine_process import running_engine
from tests.random_adapter import random_adapter
from tests.tap_ear import TapEar
from tests.tiny_policy import VOCABULARY


@dataclass
class Tapped:
    """An engine with a tap, and what the tap has said so far."""

    url: str
    ear: TapEar


@pytest.fixture(scope="module")
def tapped(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tapped]:
    folder = tmp_path_factory.mktemp("tapped")
    with tap_socket("127.0.0.1:0") as listener:
        address = "{}:{}".format(*listener.getsockname())
        with running_engine(tiny_policy, folder / "log", tap_address=address, max_logprobs=VOCABULARY) as url:
            yield Tapped(url, TapEar(listener))


@asynccontextmanager
async def asking(engine: Tapped) -> AsyncIterator[Any]:
    """A function that asks for a completion and returns the exact entropy of each of its tokens, by choice."""
    async with aiohttp.ClientSession(engine.url, timeout=aiohttp.ClientTimeout(total=120)) as session:

        async def ask(version: str, prompt: list[int], **options: Any) -> list[np.ndarray]:
            body = {"model": version, "prompt": prompt, "max_tokens": 24, "ignore_eos": True, "temperature": 1.0}
            body |= {"logprobs": VOCABULARY, "return_tokens_as_token_ids": True, "vllm_xargs": tags(version, "live")}
            async with session.post("/v1/completions", json={**body, **options}) as answer:
                assert answer.status == 200, await answer.text()
                choices = (await answer.json())["choices"]
            return [np.array([_entropy(top) for top in choice["logprobs"]["top_logprobs"]]) for choice in choices]

        yield ask


def _entropy(top: dict[str, float]) -> float:
    assert len(top) == VOCABULARY
    logprobs = np.array(list(top.values()))
    return float(-(np.exp(logprobs) * logprobs).sum())


def prompt(number: int, length: int = 20) -> list[int]:
    return [10 + (number * 37 + place * 11) % 240 for place in range(length)]


def test_mixed_traffic_is_measured_exactly_and_told_apart(tapped: Tapped, tiny_policy: Path, tmp_path: Path) -> None:
    names = ["base", "policy-v1", "policy-v2"]

    async def body() -> dict[str, list[np.ndarray]]:
        async with aiohttp.ClientSession(tapped.url) as session:
            for seed, name in enumerate(names[1:]):
                adapter = random_adapter(tmp_path / name, tiny_policy, seed=seed)
                loading = {"lora_name": name, "lora_path": str(adapter)}
                async with session.post("/v1/load_lora_adapter", json=loading) as answer:
                    assert answer.status == 200
        async with asking(tapped) as ask:
            requests = [
                (name, ask(name, prompt(number), max_tokens=4 + 5 * number, temperature=(0.0, 0.7, 1.5)[number % 3]))
                for number in range(6)
                for name in names
            ]
            # Two choices each, and a prefix that is in the cache already.
            requests += [(name, ask(name, prompt(1, 100), n=2, seed=3)) for name in names for _ in range(2)]
            answers = await asyncio.gather(*(request for _, request in requests))
        by_version: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for (name, _), choices in zip(requests, answers, strict=True):
            by_version[name] += choices
        return by_version

    for name, sequences in asyncio.run(body()).items():
        tokens = sum(map(len, sequences))
        sums = tapped.ear.sums_of(name, tokens)
        assert (sums.tokens, sums.sequences) == (tokens, len(sequences))
        assert sums.entropy / tokens == pytest.approx(np.concatenate(sequences).mean(), abs=1e-5)
        assert sums.squared_entropy == pytest.approx(sum(s.sum() ** 2 for s in sequences), rel=1e-5)
        assert sums.position_tokens[0] == len(sequences)
        first = np.mean([sequence[0] for sequence in sequences])
        assert sums.position_entropy[0] / len(sequences) == pytest.approx(first, abs=1e-5)
    assert tapped.ear.sums("base", "probe") == Moments()


def test_a_client_that_leaves_and_one_that_says_nothing(tapped: Tapped) -> None:
    async def body() -> int:
        received = 0
        body = {"model": "base", "prompt": prompt(5), "max_tokens": 900, "ignore_eos": True, "stream": True}
        async with aiohttp.ClientSession(tapped.url) as session:
            async with session.post("/v1/completions", json={**body, "vllm_xargs": tags("left", "probe")}) as answer:
                async for line in answer.content:
                    received += line.startswith(b"data: ")
                    if received == 20:
                        break
            async with session.post("/v1/completions", json={**body, "stream": False, "max_tokens": 5}) as answer:
                assert answer.status == 200
        return received

    seen = set(tapped.ear.reports)
    received = asyncio.run(body())
    sums = tapped.ear.sums_of("left", received, "probe")
    assert received <= sums.tokens < 900
    assert sums.sequences == 1
    new = [tapped.ear.reports[run] for run in set(tapped.ear.reports) - seen]
    assert [report.version for report in new] == ["left"]  # untagged tokens belong to nobody


def test_tokens_that_a_grammar_rules_out_do_not_count(tapped: Tapped) -> None:
    async def body() -> None:
        async with aiohttp.ClientSession(tapped.url) as session:
            body = {"model": "base", "prompt": prompt(2), "max_tokens": 12, "temperature": 1.0}
            body |= {"structured_outputs": {"regex": "[ab]{12}"}, "vllm_xargs": tags("masked", "live")}
            async with session.post("/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()

    asyncio.run(body())
    sums = tapped.ear.sums_of("masked", 12)
    assert sums.tokens == 12
    assert 0 < sums.entropy / 12 <= np.log(2) + 1e-6
