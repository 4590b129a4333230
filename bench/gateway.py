"""Measures what the gateway costs: `python -m bench.gateway --litellm PATH`.

A stub that answers at once is asked directly, through a whole reheatd daemon without and with API keys, and through
LiteLLM's proxy with one worker, in turns. Then real vLLM with SmolLM2-135M is asked directly and through a daemon with
API keys: first with an engine that computes on all cores, which the daemon and the clients take from it, then with one
that has a core of its own, as an engine on a GPU has its GPU. `make bench-gateway` installs LiteLLM into an environment
of its own.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from bench.figures import Report
from bench.http_load import Load, run_load
from bench.paired import pseudomedian
from reheatd.config_tables import BUILTIN_POLICY
from reheatd.engine.policy_model import resolve_policy
from reheatd.process.ports import reserve_port
from tests.engine_process import running_engine

CHAT = "/v1/chat/completions"
ROUNDS = 5
SECONDS = 4.0
BUSY_CONNECTIONS = 32
CONCURRENCY = 16
NEW_TOKENS = 48
VLLM_TURNS = 64
OWN_CORE_TURNS = 32
START_TIMEOUT_S = 180.0
SIDES = ("direct", "reheatd", "keys", "litellm")
"""`keys` is a daemon that asks for API keys, with every limit of the key on; `reheatd` asks for none."""
PLENTY = str(10**9)


@contextmanager
def process(argv: list[str], ready_url: str, log: Path, **environment: str) -> Iterator[psutil.Process]:
    """Runs a server, and gives its process once `ready_url` answers with 200."""
    with log.open("wb") as output:
        running = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(ready_url):
            if running.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[0]} did not come up:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield psutil.Process(running.pid)
    finally:
        running.terminate()
        running.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@dataclass(frozen=True)
class Served:
    """A daemon's port, its process and a key for it, which a daemon that needs none ignores."""

    port: int
    process: psutil.Process
    key: str = "sk-bench"


@contextmanager
def daemon(engine_url: str, folder: Path, model: Path, *, keys: bool = False) -> Iterator[Served]:
    """Runs the whole daemon in front of an engine; with `keys`, it asks for a key, which has a limit of each kind."""
    folder.mkdir()
    port = reserve_port()
    config = folder / "reheatd.toml"
    config.write_text(
        f"data_dir = '{folder}/data'\n[policy]\nmodel = '{model}'\n[server]\nport = {port}\n"
        f"require_keys = {str(keys).lower()}\n"
        f"[engine]\nurl = '{engine_url}'\n[workers]\ncount = 0\n[control]\nmode = 'observe'\n"
        "[entropy]\ninterval_s = 3600\nbaseline_windows = 1\n"
    )
    reheatd = [sys.executable, "-m", "cli.main"]
    key = ""
    if keys:
        limits = [f"--{limit}={PLENTY}" for limit in ("requests-per-minute", "concurrency", "tokens-per-minute")]
        for name, options in (("ops", ["--role=admin"]), ("bench", ["--models=policy", *limits])):
            argv = [*reheatd, "keys", "create", name, *options, "--json", "--config", str(config)]
            key = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)["token"]
    argv = [*reheatd, "serve", "--config", str(config)]
    with process(argv, f"http://127.0.0.1:{port}/health", folder / "log") as running:
        yield Served(port, running, key or Served.key)


@contextmanager
def litellm(executable: Path, engine_url: str, folder: Path) -> Iterator[int]:
    folder.mkdir()
    port = reserve_port()
    config = folder / "config.yaml"
    config.write_text(
        "model_list:\n  - model_name: policy\n    litellm_params:\n      model: openai/base\n"
        f"      api_base: {engine_url}/v1\n      api_key: none\n"
        "litellm_settings:\n  set_verbose: false\n  telemetry: false\n"
    )
    argv = [str(executable), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    # Without these, LiteLLM fetches its price list from the network at every start, and it expects a key to check.
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with process(argv, f"http://127.0.0.1:{port}/health/liveliness", folder / "log", **environment):
        yield port


def stub_sides(executable: Path, scratch: Path, model: Path, report: Report) -> None:
    body = json.dumps({"model": "policy", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}).encode()
    with ExitStack() as running:
        stub = reserve_port()
        url = f"http://127.0.0.1:{stub}"
        argv = [sys.executable, "-m", "bench.stub_engine", str(stub)]
        running.enter_context(process(argv, f"{url}/health", scratch / "stub.log"))
        plain = running.enter_context(daemon(url, scratch / "reheatd", model))
        with_keys = running.enter_context(daemon(url, scratch / "keys", model, keys=True))
        ports = {
            "direct": stub,
            "reheatd": plain.port,
            "keys": with_keys.port,
            "litellm": running.enter_context(litellm(executable, url, scratch / "litellm")),
        }
        loads: dict[tuple[str, int], list[Load]] = {}
        for turn in range(ROUNDS + 1):
            for connections in (1, BUSY_CONNECTIONS):
                for side in SIDES:
                    key = with_keys.key if side == "keys" else plain.key
                    load = run_load(ports[side], CHAT, body, connections=connections, seconds=SECONDS, key=key)
                    if turn:  # the first turn warms up
                        loads.setdefault((side, connections), []).append(load)
                    print(
                        f"turn {turn}: {side}, {connections} at once: {load.requests_per_second:.0f} requests/s",
                        flush=True,
                    )

    def median(side: str, connections: int, figure: str) -> float:
        values = {
            "rps": lambda load: load.requests_per_second,
            "p50": lambda load: load.percentile_ms(50),
            "p99": lambda load: load.percentile_ms(99),
        }
        return statistics.median(values[figure](load) for load in loads[side, connections])

    for side in SIDES[1:]:
        suffix = "" if side == "reheatd" else f"_{side}"
        for figure in ("p50", "p99"):
            added = median(side, 1, figure) - median("direct", 1, figure)
            report.result(f"added_{figure}_ms{suffix}", added, "ms")
    for side in SIDES:
        report.result(f"rps_{side}", median(side, BUSY_CONNECTIONS, "rps"), "requests/s")
        report.result(f"busy_p99_ms_{side}", median(side, BUSY_CONNECTIONS, "p99"), "ms")
    for side, name in (("reheatd", "rps_vs_litellm"), ("keys", "rps_vs_litellm_keys")):
        report.result(name, median(side, BUSY_CONNECTIONS, "rps") / median("litellm", BUSY_CONNECTIONS, "rps"))


async def throughput(url: str, model: str, key: str, turn: int) -> float:
    """Completion tokens per second of `CONCURRENCY` streams of fixed length."""

    async def one(session: aiohttp.ClientSession, stream: int) -> None:
        body = {"model": model, "prompt": f"{turn} {stream} tell me a story about a river", "max_tokens": NEW_TOKENS,
                "ignore_eos": True, "stream": True}  # fmt: skip
        async with session.post(f"{url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for _ in answer.content.iter_any():
                pass

    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600), headers=headers) as session:
        started = time.perf_counter()
        await asyncio.gather(*(one(session, stream) for stream in range(CONCURRENCY)))
        return CONCURRENCY * NEW_TOKENS / (time.perf_counter() - started)


def vllm_sides(scratch: Path, model: Path, report: Report) -> None:
    with ExitStack() as running:
        engine = running.enter_context(running_engine(model, scratch / "engine.log", kv_cache_bytes=256 << 20))
        compare(engine, scratch / "before-vllm", model, report, VLLM_TURNS, "")
    with ExitStack() as running:
        core, *others = sorted(os.sched_getaffinity(0))
        if not others:
            raise RuntimeError("an engine cannot have a core of its own on a machine with one core")
        running.callback(os.sched_setaffinity, 0, {core, *others})
        bound = {"cpu_threads_bind": str(core), "kv_cache_bytes": 256 << 20}
        engine = running.enter_context(running_engine(model, scratch / "bound.log", **bound))
        os.sched_setaffinity(0, others)
        for server in psutil.Process().children():
            move(server, others)
            for computing in server.children(recursive=True):
                move(computing, [core])
        compare(engine, scratch / "before-bound", model, report, OWN_CORE_TURNS, "_own_core")


def move(running: psutil.Process, cores: list[int]) -> None:
    """Lets all threads of a process run on these cores only."""
    for thread in running.threads():
        os.sched_setaffinity(thread.id, cores)


def compare(engine: str, folder: Path, model: Path, report: Report, turns: int, suffix: str) -> None:
    """Asks an engine in turns directly and through a daemon with API keys."""
    with daemon(engine, folder, model, keys=True) as served:
        sides = {
            "direct": (engine, "base", "none"),
            "reheatd": (f"http://127.0.0.1:{served.port}", "policy", served.key),
        }
        for side in sides.values():
            asyncio.run(throughput(*side, 0))
        ratios = []
        cpu_before_s = _cpu_s(served.process)
        for turn in range(1, turns + 1):
            order = list(sides) if turn % 2 else list(sides)[::-1]
            speeds = {side: asyncio.run(throughput(*sides[side], turn)) for side in order}
            ratios.append(speeds["reheatd"] / speeds["direct"])
            print(f"turn {turn}: direct {speeds['direct']:.0f}, reheatd {speeds['reheatd']:.0f} tokens/s", flush=True)
        cpu_s = _cpu_s(served.process) - cpu_before_s
    ratio, margin = pseudomedian(ratios)
    report.result(f"vllm_throughput_vs_direct{suffix}", ratio)
    report.result(f"vllm_throughput_vs_direct_margin{suffix}", margin, "(95%)")
    report.result(f"daemon_cpu_us_per_token{suffix}", cpu_s / (turns * CONCURRENCY * NEW_TOKENS) * 1e6, "us")


def _cpu_s(running: psutil.Process) -> float:
    times = running.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description="What the gateway costs.")
    parser.add_argument("--litellm", type=Path, required=True, help="the executable of LiteLLM's proxy")
    arguments = parser.parse_args()
    report = Report("gateway")
    model = resolve_policy(BUILTIN_POLICY)
    with tempfile.TemporaryDirectory(prefix="reheatd-bench-") as folder:
        scratch = Path(folder)
        stub_sides(arguments.litellm, scratch, model, report)
        vllm_sides(scratch, model, report)
    report.write(rounds=ROUNDS, seconds=SECONDS, connections=BUSY_CONNECTIONS, concurrency=CONCURRENCY)


if __name__ == "__main__":
    main()
