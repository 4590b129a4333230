"""Steps of `bench.gpu_check` with an engine: a daemon that serves, the entropy tap, and swaps under load."""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.entropy import Engine, tap_error
from bench.gpu_steps import Check, Figures
from bench.swap import KV_CACHE, RANK, SIZE, reheatd
from bench.swap_judge import Judged
from bench.swap_reference import Reference
from reheatd.engine.client import EngineClient, Sample
from reheatd.entropy.live import tap_socket
from reheatd.entropy.meter import EntropyMeter, vocabulary_size
from reheatd.entropy.probes import load_probes
from reheatd.options import TaskOptions, WindowOptions
from reheatd.tap.wire import tags
from tests.daemon import PROMPT, Daemon, running
from tests.engine_process import SERVER, running_engine
from tests.random_adapter import random_adapter
from tests.tap_ear import TapEar

ANSWER_TOKENS = 64
TOP_K = 20
ROUNDING = 0.01
"""What logprobs of an engine in bfloat16 are off by, in nats."""
V2_ON_CPU = "tests.v2_runner_engine"
V2_ON_CPU_ARGS = ["--worker-cls", "vllm.v1.worker.cpu_worker.CPUWorker"]
"""How a CPU engine gets the V2 model runner, which is a GPU's default."""


def serving(check: Check) -> Figures:
    """A daemon on the device, with the tap: the time until it serves, and one chat."""
    begun = time.perf_counter()
    with running(check.scratch, check.policy, workers={"count": 0}, entropy={"tap": "on"}) as daemon:
        return {"ready_s": time.perf_counter() - begun, **chat(daemon)}


def chat(daemon: Daemon) -> Figures:
    """One chat with a daemon, by the version that it serves."""
    body = {"model": "policy", "messages": PROMPT, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
    daemon.answer()  # the first answer compiles
    begun = time.perf_counter()
    answer = daemon.http.post("/v1/chat/completions", json=body)
    seconds = time.perf_counter() - begun
    if answer.status_code != 200:
        raise ValueError(f"the daemon answered {answer.status_code}: {answer.text[:300]}")
    tokens = answer.json()["usage"]["completion_tokens"]
    return {
        "missing_tokens": ANSWER_TOKENS - tokens,
        "tokens_per_s": tokens / seconds,
        "failed_requests": daemon.reheatd("status")["requests"]["failed"],
    }


def tap(check: Check) -> Figures:
    """The tap on the V2 model runner, against the engine's own logprobs and against the estimate from its top k."""
    log, server, extra = check.scratch / "engine.log", SERVER, ["--max-logprobs", "-1"]
    if check.device == "cpu":
        server, extra = V2_ON_CPU, [*extra, *V2_ON_CPU_ARGS]
    with tap_socket("127.0.0.1:0") as listener:
        address = "{}:{}".format(*listener.getsockname())
        with running_engine(
            check.policy, log, device=check.device, server=server, tap_address=address, extra_args=extra
        ) as url:
            figures = tap_figures(url, TapEar(listener), check)
    return figures | {"v2_runner": float("Using V2 Model Runner" in log.read_text())}


def tap_figures(url: str, ear: TapEar, check: Check) -> Figures:
    """What a tap says about the answers of an engine, beside what its logprobs say."""
    probes = load_probes(TaskOptions(), WindowOptions(probe_count=max(2, check.size.prompts)))

    async def estimate() -> Figures:
        async with EngineClient(url) as client:
            meter = EntropyMeter(
                _Tagged(client),
                probes,
                max_tokens=check.size.max_tokens,
                top_k=TOP_K,
                confidence=0.95,
                vocab_size=vocabulary_size(check.policy),
            )
            found = await meter.measure("base", seed=0)
        assert found.upper is not None
        sums = await asyncio.to_thread(ear.sums_of, _Tagged.VERSION, found.estimate.tokens, "probe")
        exact = sums.entropy / sums.tokens
        return {
            "tap_nats": exact,
            "estimated_nats": found.estimate.mean,
            "surplus_tokens": float(sums.tokens - found.estimate.tokens),
            "below_lower_bound": max(0.0, found.lower - exact),
            "above_upper_bound": max(0.0, exact - found.upper),
        }

    return {"error_nats": asyncio.run(tap_error(Engine(url, ear))), **asyncio.run(estimate())}


class _Tagged:
    """The part of an engine's client that the meter uses, with the tags by which the tap knows its requests."""

    VERSION = "estimated"

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[Sample]:
        return await self._client.chat(model, messages, **options, xargs=tags(self.VERSION, "probe"))


def swap(check: Check) -> Figures:
    """Swaps under load, on an engine of its own."""
    log = check.scratch / "engine.log"
    with running_engine(check.policy, log, device=check.device, kv_cache_bytes=KV_CACHE) as url:
        return swap_figures(url, check)


def swap_figures(url: str, check: Check) -> Figures:
    """Swaps under load as in `bench.swap`, with fewer adapters; every answer is held against its version."""
    pace, folder, model = check.size.pace, check.scratch, check.policy
    adapters = _adapters(folder, model, pace.swaps + 1)
    reference = Reference(model, adapters[0])
    proofs = [reference.proof(adapter) for adapter in adapters]
    side = asyncio.run(reheatd(url, adapters, proofs, reference.prompt_ids, folder, pace))
    judged = Judged.of(reference, adapters, side.answers)
    return {
        "swaps": float(len(side.to_first_token)),
        "answers": float(len(side.answers)),
        "failed_requests": float(side.failed()),
        "wrong_version_answers": float(judged.wrong),
        "own_version_difference": float(judged.own_A.max()),
        "other_version_difference": judged.nearest,
        "publish_to_first_token_ms": statistics.median(side.to_first_token) * 1e3,
        "longest_silence_ms": side.longest_gap_s() * 1e3,
    }


def _adapters(folder: Path, model: Path, count: int) -> list[Path]:
    return [random_adapter(folder / f"trained-{seed}", model, rank=RANK, seed=seed, size=SIZE) for seed in range(count)]
