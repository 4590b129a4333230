"""Measures what clients notice when the weights change under load: `python -m bench.swap`.

Eight clients stream SmolLM2-135M's answers without pause, while reheatd's swap protocol publishes and promotes 100
adapters one after the other. Each answer's logprobs are then compared with those that Transformers and PEFT compute in
float32 for the version in its header; `bench.swap_judge` says which answers count as another version's. The same is
measured for two ways without a protocol: overwriting and reloading the files under one adapter name, and restarting the
engine with other weights. Then proofs of delivery are simulated from recorded logprobs: of right adapters, and of
everything that might answer in their place.
"""

import asyncio
import itertools
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.figures import Report
from bench.proof_rates import DELIVERED, KINDS, Rate, Recording
from bench.swap_judge import Judged
from bench.swap_load import Answer, StreamLoad, gaps
from bench.swap_pace import Pace
from bench.swap_reference import Reference
from reheatd.adapters.lineage import ProofItem
from reheatd.config_tables import BUILTIN_POLICY
from reheatd.engine.client import EngineClient
from reheatd.engine.policy_model import resolve_policy
from reheatd.names import version_name
from tests.engine_process import running_engine, start_engine, stop_engine
from tests.integration.serving import serving
from tests.random_adapter import random_adapter

SWAPS = 100
STREAMS = 8
PACE = Pace(SWAPS, blocks=10, streams=STREAMS)
IN_PLACE_PACE = Pace(20, blocks=4, streams=STREAMS)
RESTART_PACE = Pace(2, blocks=1, streams=STREAMS)
TOKENS = (16, 48)
RANK = 8
SIZE = 0.4
GRACE_S = 30.0
"""How long a restart waits for the old engine to end before it kills the engine, in seconds."""
WRONG_PROOFS, RIGHT_PROOFS = 200, 10_000
"""Number of simulated proofs of each wrong kind, and of right adapters."""
IN_PLACE = "policy"
KV_CACHE = 256 << 20
START_TIMEOUT_S = 300.0


@dataclass
class Side:
    """What the clients noticed of one way of changing weights."""

    answers: list[Answer] = field(default_factory=list)
    to_first_token: list[float] = field(default_factory=list)
    """Seconds from the published adapter to the first token on it."""
    control: list[tuple[float, float]] = field(default_factory=list)
    """Periods in which nothing was changed, in seconds of the monotonic clock."""
    changing: list[tuple[float, float]] = field(default_factory=list)

    def p99_gap_s(self, spans: list[tuple[float, float]]) -> float:
        return float(np.percentile([gap for begin, end in spans for gap in gaps(self.answers, begin, end)], 99))

    def longest_gap_s(self) -> float:
        """The longest gap between tokens of one answer, or between answers to all clients together."""
        arrivals = sorted(moment for answer in self.answers for moment in answer.times)
        return max(later - earlier for earlier, later in itertools.pairwise(arrivals))

    def failed(self) -> int:
        return sum(bool(answer.error) for answer in self.answers)


async def reheatd(
    engine: str,
    adapters: list[Path],
    proofs: list[list[ProofItem]],
    prompt: list[int],
    tmp: Path,
    pace: Pace = PACE,
) -> Side:
    """Publishes and promotes each adapter by the swap protocol: stage, verify, flip, drain, unload."""
    side = Side()
    async with serving(engine, tmp) as served:
        load = StreamLoad(served.url, "policy", prompt, tokens=TOKENS)

        async def publish(number: int) -> int:
            lineage = await served.store.publish(
                adapters[number], parent=0, base_model="", base_digest="", kind="imported", proof=proofs[number]
            )
            return lineage.version

        async def swap(number: int) -> None:
            first = asyncio.get_running_loop().create_future()
            asking: list[asyncio.Task[Answer]] = []
            served.swaps.on_flip = lambda _: asking.append(asyncio.create_task(load.ask(first)))
            version = await publish(number + 1)
            published = time.monotonic()
            await served.swaps.promote(version)
            answer = await asking[0]
            if not answer.error:
                assert answer.version == version_name(version)
                side.to_first_token.append(first.result() - published)

        await served.swaps.promote(await publish(0))
        await _in_turns(side, load, pace, swap)
    return side


async def in_place(engine: str, adapters: list[Path], prompt: list[int], tmp: Path) -> Side:
    """Overwrites and reloads the files under one name; an answer's version is the one loaded when it began."""
    side = Side()
    folder = tmp / "in-place"
    shutil.copytree(adapters[0], folder)
    async with EngineClient(engine) as client, aiohttp.ClientSession(engine) as http:
        await client.load_adapter(IN_PLACE, folder)
        load = StreamLoad(engine, IN_PLACE, prompt, tokens=TOKENS)
        load.version = version_name(1)

        async def swap(number: int) -> None:
            published = time.monotonic()
            for file in adapters[number + 1].iterdir():
                shutil.copy(file, folder / f"{file.name}.new")
                (folder / f"{file.name}.new").rename(folder / file.name)
            body = {"lora_name": IN_PLACE, "lora_path": str(folder), "load_inplace": True}
            async with http.post("/v1/load_lora_adapter", json=body) as answer:
                answer.raise_for_status()
            await _first_token(side, load, number + 1, published)

        await _in_turns(side, load, IN_PLACE_PACE, swap)
    return side


async def restart(model: Path, adapters: list[Path], prompt: list[int], tmp: Path) -> Side:
    """Stops the engine after its last answer, and starts it again with the next adapter."""
    side = Side()

    def start(number: int, port: int | None = None) -> tuple[str, "subprocess.Popen[bytes]"]:
        extra = ["--lora-modules", f"{IN_PLACE}={adapters[number]}"]
        return start_engine(model, tmp / "restart.log", port=port, kv_cache_bytes=KV_CACHE, extra_args=extra)

    url, running = start(0)
    try:
        async with EngineClient(url) as client:
            await client.wait_ready(START_TIMEOUT_S)
            load = StreamLoad(url, IN_PLACE, prompt, tokens=TOKENS)
            load.version = version_name(1)

            async def swap(number: int) -> None:
                nonlocal running
                published = time.monotonic()
                await asyncio.to_thread(stop_engine, running, GRACE_S)
                _, running = start(number + 1, int(url.rpartition(":")[2]))
                load.version = version_name(number + 2)
                await client.wait_ready(START_TIMEOUT_S)
                await _first_token(side, load, number + 1, published)

            await _in_turns(side, load, RESTART_PACE, swap)
    finally:
        stop_engine(running, GRACE_S)
    return side


async def _first_token(side: Side, load: StreamLoad, number: int, published: float) -> None:
    load.version = version_name(number + 1)
    first = asyncio.get_running_loop().create_future()
    if not (await load.ask(first)).error:
        side.to_first_token.append(first.result() - published)


async def _in_turns(side: Side, load: StreamLoad, pace: Pace, swap: Callable[[int], Awaitable[None]]) -> None:
    """Runs the load; periods without and with swaps take turns."""
    swaps, blocks = pace.swaps, pace.blocks
    async with load.running(pace.streams):
        await asyncio.sleep(pace.settle_s)
        for block in range(blocks):
            begin = time.monotonic()
            await asyncio.sleep(pace.control_s)
            middle = time.monotonic()
            for number in range(block * swaps // blocks, (block + 1) * swaps // blocks):
                due = asyncio.create_task(asyncio.sleep(pace.swap_every_s))
                await swap(number)
                await due
            side.control.append((begin, middle))
            side.changing.append((middle, time.monotonic()))
            print(f"  {(block + 1) * swaps // blocks} of {swaps} swaps, {len(load.answers)} answers", flush=True)
    side.answers = load.answers


def table(sides: dict[str, Side], wrong: dict[str, int]) -> Table:
    shown = Table(title=f"New adapters under the load of {STREAMS} streams, beside the two ways without a protocol")
    for heading in ("", "swaps", "answers", "failed", "wrong version", "to first token", "longest silence", "p99 gap"):
        shown.add_column(heading, justify="left" if not heading else "right")
    for name, side in sides.items():
        shown.add_row(
            name,
            str(len(side.to_first_token)),
            str(len(side.answers)),
            str(side.failed()),
            str(wrong[name]),
            f"{statistics.median(side.to_first_token) * 1e3:.0f} ms",
            f"{side.longest_gap_s():.2f} s",
            f"{side.p99_gap_s(side.changing) / side.p99_gap_s(side.control):.2f}x",
        )
    return shown


def proof_rates(report: Report) -> Table:
    """Simulates proofs, and shows how often what was wrong held and what was right did not."""
    recording, rng = Recording(), np.random.default_rng(0)
    right = recording.rate(DELIVERED, RIGHT_PROOFS, rng)
    wrong = {kind: recording.rate(kind, WRONG_PROOFS, rng) for kind in KINDS}
    report.result("proof_misses", sum(rate.held for rate in wrong.values()))
    report.result("proof_misses_of", sum(rate.held + rate.refused for rate in wrong.values()))
    report.result("proof_false_alarms_per_1000", right.refused / RIGHT_PROOFS * 1e3)
    report.result("proof_tokens", statistics.median(right.tokens), "tokens")
    shown = Table(title="Proofs of delivery, simulated from recorded logprobs")
    for heading in ("what answers", "proofs", "held", "tokens, median", "tokens, 90%"):
        shown.add_column(heading, justify="left" if heading == "what answers" else "right")
    rates: dict[str, Rate] = {"the adapter itself": right, **wrong}
    for name, rate in rates.items():
        tokens = np.percentile(rate.tokens, [50, 90])
        shown.add_row(name, str(rate.held + rate.refused), str(rate.held), *(f"{count:.0f}" for count in tokens))
    return shown


def main() -> None:
    report = Report("swap")
    model = resolve_policy(BUILTIN_POLICY)
    with tempfile.TemporaryDirectory() as scratch:
        tmp = Path(scratch)
        adapters = [
            random_adapter(tmp / f"trained-{seed}", model, rank=RANK, seed=seed, size=SIZE) for seed in range(SWAPS + 1)
        ]
        reference = Reference(model, adapters[0])
        prompt = reference.prompt_ids
        proofs = [reference.proof(adapter) for adapter in adapters]
        print(f"{SWAPS} adapters of rank {RANK}, a prompt of {len(prompt)} tokens", flush=True)
        sides: dict[str, Side] = {}
        with running_engine(model, tmp / "engine.log", kv_cache_bytes=KV_CACHE) as engine:
            sides["reheatd"] = asyncio.run(reheatd(engine, adapters, proofs, prompt, tmp))
        with running_engine(model, tmp / "engine.log", kv_cache_bytes=KV_CACHE) as engine:
            sides["reload in place"] = asyncio.run(in_place(engine, adapters, prompt, tmp))
        sides["restart"] = asyncio.run(restart(model, adapters, prompt, tmp))

        judged = {name: Judged.of(reference, adapters, side.answers) for name, side in sides.items()}
        for name, found in judged.items():
            print(
                f"{name}: {np.median(found.own_A):.3f} nats per token from the version answered, at most "
                f"{found.own_A.max():.3f}; at least {found.nearest:.3f} from the one before or after"
            )
        wrong = {name: found.wrong for name, found in judged.items()}

    Console().print(table(sides, wrong))
    side = sides["reheatd"]
    report.result("swaps", len(side.to_first_token))
    report.result("answers", len(side.answers))
    report.result("failed_requests", side.failed())
    report.result("wrong_version_answers", wrong["reheatd"])
    report.result("publish_to_first_token_ms", statistics.median(side.to_first_token) * 1e3, "ms")
    report.result("p99_gap_vs_control", side.p99_gap_s(side.changing) / side.p99_gap_s(side.control))
    report.result("p99_gap_ms", side.p99_gap_s(side.changing) * 1e3, "ms")
    report.result("own_version_difference", float(judged["reheatd"].own_A.max()), "nats per token")
    report.result("other_version_difference", judged["reheatd"].nearest, "nats per token")
    for name, prefix in (("reload in place", "in_place"), ("restart", "restart")):
        report.result(f"{prefix}_swaps", len(sides[name].to_first_token))
        report.result(f"{prefix}_failed_requests", sides[name].failed())
        report.result(f"{prefix}_wrong_version_answers", wrong[name])
        report.result(f"{prefix}_publish_to_first_token_ms", statistics.median(sides[name].to_first_token) * 1e3, "ms")
    report.result("restart_outage_s", sides["restart"].longest_gap_s(), "s")
    Console().print(proof_rates(report))
    report.write(streams=STREAMS, tokens=TOKENS, rank=RANK, size=SIZE, restarts=RESTART_PACE.swaps)


if __name__ == "__main__":
    main()
