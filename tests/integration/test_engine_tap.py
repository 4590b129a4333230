"""The entropy tap in real vLLM: every decoded token counted once, for whom it was decoded, with its exact entropy."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from bench.gpu_check import STEPS
from bench.gpu_steps import Check
from bench.gpu_steps_serving import tap_figures
from reheatd.tap.moments import Moments
from reheatd.tap.sums import SEND_EVERY_S
from reheatd.tap.wire import tags
from tests.integration.conftest import TappedEngine, tapped_engine
from tests.random_adapter import random_adapter
from tests.tiny_policy import VOCABULARY
from tests.waiting import HANGS_S


@pytest.fixture(scope="module", params=["V1 runner", "V2 runner"])
def engine(
    request: pytest.FixtureRequest, tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TappedEngine]:
    """The shared one, and one with the model runner of accelerators, which computes steps in advance."""
    if request.param == "V1 runner":
        yield request.getfixturevalue("tapped")
    else:
        log = tmp_path_factory.mktemp("v2") / "engine.log"
        extra = ["--worker-cls", "vllm.v1.worker.cpu_worker.CPUWorker"]
        with tapped_engine(tiny_policy, log, server="tests.v2_runner_engine", extra_args=extra) as started:
            assert "Using V2 Model Runner" in log.read_text()
            yield started


@asynccontextmanager
async def asking(engine: TappedEngine) -> AsyncIterator[Any]:
    """A function that asks for a completion and returns the exact entropy of each of its tokens, by choice."""
    async with aiohttp.ClientSession(engine.url, timeout=aiohttp.ClientTimeout(total=HANGS_S)) as session:

        async def ask(version: str, prompt: list[int], **options: Any) -> list[np.ndarray]:
            body = {"model": version, "prompt": prompt, "max_tokens": 24, "ignore_eos": True, "temperature": 1.0}
            body |= {
                "logprobs": VOCABULARY,
                "return_tokens_as_token_ids": True,
                "vllm_xargs": tags(f"of {version}", "live"),
            }
            async with session.post("/v1/completions", json={**body, **options}) as answer:
                assert answer.status == 200, await answer.text()
                choices = (await answer.json())["choices"]
            # The first token of a prompt that is echoed has none.
            tops = [[top for top in choice["logprobs"]["top_logprobs"] if top] for choice in choices]
            return [np.array([_entropy(top) for top in tops_of_one]) for tops_of_one in tops]

        yield ask


async def scored(ask: Any, prompt: list[int], completion: list[int]) -> np.ndarray:
    """The exact entropy of each of the tokens of a completion, which is not decoded for it again."""
    options = {"max_tokens": 1, "echo": True, "vllm_xargs": tags("scored", "live")}
    (entropies,) = await ask("base", prompt + completion, **options)
    return entropies[len(prompt) - 1 : -1]


def _entropy(top: dict[str, float]) -> float:
    assert len(top) == VOCABULARY
    logprobs = np.array(list(top.values()))
    return float(-(np.exp(logprobs) * logprobs).sum())


def prompt(number: int, length: int = 20) -> list[int]:
    return [10 + (number * 37 + place * 11) % 240 for place in range(length)]


def compare(engine: TappedEngine, version: str, sequences: list[np.ndarray], tolerance: float = 1e-5) -> None:
    """The tap's sums of a version against the exact entropies of its sequences."""
    tokens = sum(map(len, sequences))
    sums = engine.ear.sums_of(version, tokens)
    assert (sums.tokens, sums.sequences) == (tokens, len(sequences))
    assert sums.entropy / tokens == pytest.approx(np.concatenate(sequences).mean(), abs=tolerance)
    assert sums.squared_entropy == pytest.approx(sum(s.sum() ** 2 for s in sequences), rel=tolerance)
    assert sums.position_tokens[0] == len(sequences)
    first = np.mean([sequence[0] for sequence in sequences])
    assert sums.position_entropy[0] / len(sequences) == pytest.approx(first, abs=tolerance)


def test_mixed_traffic_is_measured_exactly_and_told_apart(
    engine: TappedEngine, tiny_policy: Path, tmp_path: Path
) -> None:
    names = ["base", "tapped-v1", "tapped-v2"]

    async def body() -> dict[str, list[np.ndarray]]:
        async with aiohttp.ClientSession(engine.url) as session:
            for seed, name in enumerate(names[1:]):
                adapter = random_adapter(tmp_path / name, tiny_policy, seed=seed)
                loading = {"lora_name": name, "lora_path": str(adapter)}
                async with session.post("/v1/load_lora_adapter", json=loading) as answer:
                    assert answer.status == 200
            async with asking(engine) as ask:
                requests = [
                    (
                        name,
                        ask(name, prompt(number), max_tokens=4 + 8 * number, temperature=(0.0, 0.7, 1.5)[number % 3]),
                    )
                    for number in range(3)
                    for name in names
                ]
                # Two choices each, and a prefix that is in the cache already.
                requests += [(name, ask(name, prompt(1, 100), n=2, seed=3)) for name in names for _ in range(2)]
                answers = await asyncio.gather(*(request for _, request in requests))
            for name in names[1:]:
                async with session.post("/v1/unload_lora_adapter", json={"lora_name": name}) as answer:
                    assert answer.status == 200
        by_version: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for (name, _), choices in zip(requests, answers, strict=True):
            by_version[name] += choices
        return by_version

    for name, sequences in asyncio.run(body()).items():
        compare(engine, f"of {name}", sequences)
    assert engine.ear.sums("of base", "probe") == Moments()


def test_what_is_computed_past_the_end_of_a_sequence_does_not_count(engine: TappedEngine) -> None:
    async def body() -> list[np.ndarray]:
        async with asking(engine) as ask:
            # The steps go on while sequences end, by a stop token or by length.
            longer = asyncio.create_task(ask("base", prompt(9), max_tokens=60, vllm_xargs=tags("longer", "live")))
            options = {"stop_token_ids": list(range(0, VOCABULARY, 3)), "vllm_xargs": tags("stopped", "live")}
            ended = await asyncio.gather(*(ask("base", prompt(number), seed=number, **options) for number in range(8)))
            entropies = await longer
            assert engine.ear.sums_of("longer", 60).tokens == sum(map(len, entropies))
        return [sequence for choices in ended for sequence in choices]

    sequences = asyncio.run(body())
    assert min(map(len, sequences)) < 24
    compare(engine, "stopped", sequences)


def test_a_client_that_leaves_and_one_that_says_nothing(engine: TappedEngine) -> None:
    async def body() -> int:
        received = 0
        body = {"model": "base", "prompt": prompt(5), "max_tokens": 900, "ignore_eos": True, "stream": True}
        async with aiohttp.ClientSession(engine.url) as session:
            async with session.post("/v1/completions", json={**body, "vllm_xargs": tags("left", "probe")}) as answer:
                async for line in answer.content:
                    received += line.startswith(b"data: ")
                    if received == 20:
                        break
            async with session.post("/v1/completions", json={**body, "stream": False, "max_tokens": 5}) as answer:
                assert answer.status == 200
        return received

    known = {report.version for report in engine.ear.reports.values()}
    received = asyncio.run(body())
    sums = engine.ear.sums_of("left", received, "probe")
    assert received <= sums.tokens < 900
    assert sums.sequences == 1
    # Untagged tokens belong to nobody.
    assert {report.version for report in engine.ear.reports.values()} == known | {"left"}


@pytest.mark.parametrize("interruption", ["pause", "preemption"])
def test_a_sequence_that_is_interrupted_is_one_sequence(
    engine: TappedEngine, tapped: TappedEngine, interruption: str
) -> None:
    """However long: the tap reports once a second, and three reports go by."""
    prompts = [prompt(number) for number in range(3)]

    async def interrupt(session: aiohttp.ClientSession, version: str, tokens: int) -> list[list[int]] | None:
        """Their completions; None where one had ended before it could be interrupted."""
        streams = [Stream(session, one, tokens, tags(version, "live")) for one in prompts]
        await asyncio.gather(*(stream.has_begun.wait() for stream in streams))
        await post(session, "/pause", mode="keep")
        in_time = not any(stream.has_ended for stream in streams)
        try:
            if in_time and interruption == "preemption":
                await post(session, "/reset_prefix_cache", reset_running_requests="true")
            elif in_time:
                await asyncio.sleep(3 * SEND_EVERY_S)
                assert engine.ear.sums(version) == Moments()
        finally:
            await post(session, "/resume")
        completions = await asyncio.gather(*(stream.ids for stream in streams))
        return completions if in_time else None

    async def body() -> None:
        tokens, completions = 15, None
        async with aiohttp.ClientSession(engine.url) as session, asking(tapped) as ask:
            while completions is None:
                tokens *= 2  # for an engine that is faster than this client
                completions = await interrupt(session, f"{interruption} {tokens}", tokens)
            sequences = [await scored(ask, *pair) for pair in zip(prompts, completions, strict=True)]
        assert [len(ids) for ids in completions] == [tokens] * len(prompts)
        # Scored in one piece, they are rounded in other ways than when they were decoded.
        compare(engine, f"{interruption} {tokens}", sequences, tolerance=0.01)

    asyncio.run(body())


class Stream:
    """A request that streams, from when it is made."""

    def __init__(self, session: aiohttp.ClientSession, prompt: list[int], tokens: int, tags: dict[str, str]) -> None:
        self.has_begun = asyncio.Event()
        self.ids = asyncio.create_task(self._read(session, prompt, tokens, tags))

    @property
    def has_ended(self) -> bool:
        return self.ids.done()

    async def _read(
        self, session: aiohttp.ClientSession, prompt: list[int], tokens: int, tags: dict[str, str]
    ) -> list[int]:
        ids: list[int] = []
        body = {"model": "base", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "vllm_xargs": tags}
        body |= {"stream": True, "return_token_ids": True}
        async with session.post("/v1/completions", json=body) as answer:
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    ids += json.loads(line[6:])["choices"][0]["token_ids"]
                if len(ids) > 5:
                    self.has_begun.set()
        return ids


async def post(session: aiohttp.ClientSession, path: str, **options: str) -> None:
    async with session.post(path, params=options) as answer:
        assert answer.status == 200, await answer.text()


def test_the_gpu_check_of_the_tap_passes(engine: TappedEngine, tiny_policy: Path, tmp_path: Path) -> None:
    found = tap_figures(engine.url, engine.ear, Check("cpu", str(tiny_policy), "toy", str(tmp_path)))
    (step,) = (step for step in STEPS if step.name == "tap")
    assert step.fault(found | {"v2_runner": 1.0}) is None, found
    assert found["tap_nats"] == pytest.approx(found["estimated_nats"], rel=0.1)


def test_tokens_that_are_ruled_out_do_not_count(engine: TappedEngine) -> None:
    asyncio.run(ask_for_twelve(engine, "two allowed", {"allowed_token_ids": [70, 71], "ignore_eos": True}))
    assert_two_choices(engine.ear.sums_of("two allowed", 12))


def test_tokens_that_a_grammar_rules_out_do_not_count(tapped: TappedEngine) -> None:
    """Not on the V2 runner: the kernel that applies its grammars is more than Triton's interpreter can do."""
    asyncio.run(ask_for_twelve(tapped, "masked", {"structured_outputs": {"regex": "[ab]{12}"}}))
    assert_two_choices(tapped.ear.sums_of("masked", 12))


async def ask_for_twelve(engine: TappedEngine, version: str, options: dict[str, Any]) -> None:
    async with aiohttp.ClientSession(engine.url) as session:
        body = {"model": "base", "prompt": prompt(2), "max_tokens": 12, "temperature": 1.0, **options}
        async with session.post("/v1/completions", json={**body, "vllm_xargs": tags(version, "live")}) as answer:
            assert answer.status == 200, await answer.text()


def assert_two_choices(sums: Moments) -> None:
    assert sums.tokens == 12
    assert 0 < sums.entropy / 12 <= np.log(2) + 1e-6
