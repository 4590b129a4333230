"""Compares the number format that the CPU engine chooses with the other one: `python -m bench.cpu_dtype`.

Two engines serve SmolLM2-135M as the daemon starts them, one in each format. They take turns, so that whatever else the
machine does affects both. A turn is 32 streams on the base model, and then the same on a rank-16 adapter on every
linear layer.
"""

import asyncio
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.cpu_lora import CONCURRENCY, NEW_TOKENS, PROMPT_TOKENS, RANK, throughput
from bench.figures import Report
from reheatd.config_tables import BUILTIN_POLICY
from reheatd.engine.client import EngineClient
from reheatd.engine.number_format import cpu_format
from reheatd.engine.policy_model import resolve_policy
from reheatd.options import NumberFormat
from tests.engine_process import running_engine
from tests.random_adapter import random_adapter

ROUNDS = 3
ADAPTER = "policy-v1"
SIDES = ("chosen", "other")


async def measure(urls: dict[str, str], adapter: Path, report: Report) -> None:
    for url in urls.values():
        async with EngineClient(url) as client:
            await client.load_adapter(ADAPTER, adapter)
        await throughput(url, "base", seed=0)  # warm-up
    figures: dict[tuple[str, str], list[float]] = {(kind, side): [] for kind in ("base", "adapter") for side in SIDES}
    for turn in range(1, ROUNDS + 1):
        for (kind, side), values in figures.items():
            values.append(await throughput(urls[side], "base" if kind == "base" else ADAPTER, seed=turn))
            print(f"round {turn}: {side} {kind} {values[-1]:.0f} tokens/s", flush=True)
    for (kind, side), values in figures.items():
        report.result(f"{side}_{kind}_tokens_per_s", statistics.median(values))
    for kind in ("adapter", "base"):
        ratios = [chosen / other for chosen, other in zip(*(figures[kind, side] for side in SIDES), strict=True)]
        name = "chosen_vs_other" + ("" if kind == "base" else f"_{kind}")
        report.result(f"{name}_min", min(ratios))
        report.result(f"{name}_max", max(ratios))
        report.result(name, statistics.median(ratios))


def main() -> None:
    report = Report("cpu_dtype")
    model = resolve_policy(BUILTIN_POLICY)
    chosen = cpu_format()
    other: NumberFormat = "float32" if chosen.name == "bfloat16" else "bfloat16"
    formats = dict(zip(SIDES, (chosen.name, other), strict=True))
    print(f"chosen: {chosen.name}, since {chosen.reason}")
    with tempfile.TemporaryDirectory(prefix="reheatd-bench-") as scratch, ExitStack() as engines:
        folder = Path(scratch)
        adapter = random_adapter(folder / ADAPTER, model, rank=RANK, seed=0)
        print(f"starting two engines on {model} (about a minute)", flush=True)
        urls = {
            side: engines.enter_context(
                running_engine(model, folder / f"{side}.log", kv_cache_bytes=256 << 20, max_lora_rank=RANK, dtype=name)
            )
            for side, name in formats.items()
        }
        asyncio.run(measure(urls, adapter, report))
    report.write(
        model=model.name, **formats, reason=chosen.reason, concurrency=CONCURRENCY, prompt_tokens=PROMPT_TOKENS,
        new_tokens=NEW_TOKENS, rounds=ROUNDS, rank=RANK,
    )  # fmt: skip


if __name__ == "__main__":
    main()
