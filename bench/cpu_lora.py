"""Compares the CPU LoRA plugin with vLLM's stock kernels: `python -m bench.cpu_lora`.

Two engines that differ only in the plugin run side by side, each with four random rank-16 adapters on every linear
layer of SmolLM2-135M. They take turns, so that whatever else the machine does affects both. A turn is 32 streams on one
adapter, and then the same on the base model. After that, both engines answer for base and adapters in one batch, and
for each of them apart.
"""

import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path

import aiohttp

from bench.figures import Report
from reheatd.config_tables import BUILTIN_POLICY
from reheatd.engine.client import EngineClient, Sample
from reheatd.engine.policy_model import resolve_policy
from tests.engine_process import running_engine
from tests.random_adapter import random_adapter

CONCURRENCY = 32
PROMPT_TOKENS = 32
NEW_TOKENS = 48
ROUNDS = 3
RANK = 16
SLOTS = 4
ADAPTERS = tuple(f"policy-v{version}" for version in range(1, SLOTS + 1))
"""One adapter for every slot: the stock kernels give base rows the last slot's adapter, and an empty slot would hide
that."""
MIXED_PROMPTS = 6
MIXED_TOKENS = 16
SIDES = ("stock", "plugin")


async def throughput(url: str, model: str, seed: int) -> float:
    """Completion tokens per second of `CONCURRENCY` greedy streams of fixed length, prefill included."""
    prompts = [
        [1000 + (seed * 7919 + stream * 131 + place * 17) % 40000 for place in range(PROMPT_TOKENS)]
        for stream in range(CONCURRENCY)
    ]

    async def one(session: aiohttp.ClientSession, prompt: list[int]) -> int:
        body = {"model": model, "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0.0, "ignore_eos": True}
        async with session.post(f"{url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            return (await answer.json())["usage"]["completion_tokens"]

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        start = time.perf_counter()
        tokens = await asyncio.gather(*(one(session, prompt) for prompt in prompts))
        return sum(tokens) / (time.perf_counter() - start)


def difference(first: list[Sample], second: list[Sample]) -> tuple[float, int]:
    """The largest difference of a logprob in states that both answers went through, and how many texts differ."""
    largest, changed = 0.0, 0
    for one, two in zip(first, second, strict=True):
        pairs = zip(one.token_ids, two.token_ids, strict=False)
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        logprobs = list(zip(one.logprobs, two.logprobs, strict=False))[: shared or 1]
        largest = max(largest, *(abs(logprob - other) for logprob, other in logprobs))
        changed += one.token_ids != two.token_ids
    return largest, changed


async def mixed_batch(url: str, side: str, report: Report) -> None:
    """Compares greedy answers of base and adapters: one at a time, all in one batch, and each model alone in a batch.

    The batches of one model are as large as the mixed one. They show the engine's own noise, because a batch of another
    size rounds differently.
    """
    prompts = [f"Question {number}: what is {number * 3} plus {number * 7 + 1}?" for number in range(MIXED_PROMPTS)]
    models = ["base", *ADAPTERS]
    async with EngineClient(url) as client:

        async def one(model: str, prompt: str) -> Sample:
            return await client.complete(model, prompt, max_tokens=MIXED_TOKENS, temperature=0.0)

        alone = {model: [await one(model, prompt) for prompt in prompts] for model in models}
        own = {
            model: await asyncio.gather(*(one(model, prompt) for _ in models for prompt in prompts)) for model in models
        }
        rows = await asyncio.gather(*(one(model, prompt) for prompt in prompts for model in models))
    mixed = {model: rows[index :: len(models)] for index, model in enumerate(models)}
    for kind, names in (("base", ["base"]), ("adapter", list(ADAPTERS))):
        for against, answers in (("noise", own), ("mixed", mixed)):
            copies = len(answers["base"]) // len(prompts)
            found = [difference(alone[name] * copies, answers[name]) for name in names]
            report.result(f"{side}_{against}_{kind}_max_logprob_diff", max(largest for largest, _ in found), "nats")
            report.result(f"{side}_{against}_{kind}_texts_changed", sum(changed for _, changed in found))


async def measure(urls: dict[str, str], adapters: dict[str, Path], report: Report) -> None:
    for url in urls.values():
        async with EngineClient(url) as client:
            for name, path in adapters.items():
                await client.load_adapter(name, path)
    for url in urls.values():
        await throughput(url, "base", seed=0)  # warm-up
    figures: dict[tuple[str, str], list[float]] = {(side, kind): [] for side in SIDES for kind in ("adapter", "base")}
    for turn in range(1, ROUNDS + 1):
        for side in SIDES:
            for kind, model in (("adapter", ADAPTERS[0]), ("base", "base")):
                figures[side, kind].append(await throughput(urls[side], model, seed=turn))
                print(f"round {turn}: {side} {kind} {figures[side, kind][-1]:.0f} tokens/s", flush=True)
    for (side, kind), values in figures.items():
        report.result(f"{side}_{kind}_tokens_per_s", statistics.median(values))
    speedups = [
        fast / slow for slow, fast in zip(figures["stock", "adapter"], figures["plugin", "adapter"], strict=True)
    ]
    report.result("plugin_speedup", statistics.median(speedups))
    report.result("plugin_speedup_min", min(speedups))
    report.result("plugin_speedup_max", max(speedups))
    cost = [
        adapter / base for adapter, base in zip(figures["plugin", "adapter"], figures["plugin", "base"], strict=True)
    ]
    report.result("plugin_adapter_over_base", statistics.median(cost))
    for side, url in urls.items():
        await mixed_batch(url, side, report)


def main() -> None:
    report = Report("cpu_lora")
    model = resolve_policy(BUILTIN_POLICY)
    with tempfile.TemporaryDirectory(prefix="reheatd-bench-") as scratch, ExitStack() as engines:
        folder = Path(scratch)
        adapters = {
            name: random_adapter(folder / name, model, rank=RANK, seed=seed) for seed, name in enumerate(ADAPTERS)
        }
        print(f"starting two engines on {model} (about a minute)", flush=True)
        urls = {
            side: engines.enter_context(
                running_engine(
                    model,
                    folder / f"{side}.log",
                    stock=side == "stock",
                    kv_cache_bytes=256 << 20,
                    max_loras=SLOTS,
                    max_lora_rank=RANK,
                )
            )
            for side in SIDES
        }
        asyncio.run(measure(urls, adapters, report))
    report.write(
        model=model.name, concurrency=CONCURRENCY, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS, rounds=ROUNDS,
        rank=RANK, target_modules="all linear",
    )  # fmt: skip


if __name__ == "__main__":
    main()
