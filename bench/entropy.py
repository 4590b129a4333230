"""Measures whether the entropy figure is right, and what it costs: `python -m bench.entropy`.

It compares the estimators with the exact entropy of the same states of SmolLM2-135M, and counts how often the intervals
cover it. It compares the engine's tap with float64 on the engine's own logprobs. It measures throughput with and
without the tap, with two engines that take turns, and the share of the engine's capacity that monitoring takes.
"""

import asyncio
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np

from bench.entropy_states import States, sample_states
from bench.figures import RESULTS, Report
from bench.paired import pseudomedian
from reheatd.config_tables import BUILTIN_POLICY, EntropySection
from reheatd.engine.client import EngineClient
from reheatd.engine.policy_model import resolve_policy
from reheatd.entropy.estimators import SequenceTotals, TailModel, TailMoments, TokenEstimates, estimate_tokens
from reheatd.entropy.live import tap_socket
from reheatd.entropy.meter import EntropyMeter, vocabulary_size
from reheatd.entropy.probes import load_probes
from reheatd.options import TaskOptions
from reheatd.tap.wire import tags
from tests.engine_process import running_engine
from tests.tap_ear import TapEar

PROBES = RESULTS / "probes.jsonl"
"""Open questions, which have more ways to be answered than a task's problems, so more entropy in the tail."""
SETTINGS = EntropySection(probes=PROBES)
MAX_TOKENS = 48
ROUNDS = 32
FITTED_ROUNDS = 8
"""Number of rounds that c(s) is fitted on; the others are judged."""
RESAMPLES = 1000
CONFIDENCE = 0.95
TURNS = 64
CONCURRENCY = 16
PROMPT_TOKENS = 32
NEW_TOKENS = 48
EXACT_TOKENS = 24


def estimators(states: States, vocabulary: int, report: Report) -> None:
    """Measures variance, bias and coverage of the estimators, on states that none of them was fitted on."""
    probes = len(np.unique(states.probe_S))
    split = FITTED_ROUNDS * probes
    tail = _fitted(states.of_sequences(0, split), vocabulary)
    judged = states.of_sequences(split, states.sequences)
    estimates = estimate_tokens(judged.sampled_T, judged.top_TK, tail, vocabulary)
    exact_T = judged.exact_T
    errors = {
        "cv": estimates.control_variate_T - exact_T,
        "mc": estimates.monte_carlo_T - exact_T,
        "truncated": estimates.truncated_T - exact_T,
    }
    _record(judged, estimates, probes)
    report.result("tokens", len(exact_T))
    report.result("exact_nats", float(exact_T.mean()), "nats per token")
    report.result("cv_variance_vs_mc", float(np.mean(errors["cv"] ** 2) / np.mean(errors["mc"] ** 2)))
    for name, error in errors.items():
        report.result(f"{name}_bias_rel", float(error.mean() / exact_T.mean()))
    assert estimates.upper_T is not None
    report.result(
        "bounds_violated", float(np.mean((estimates.lower_T > exact_T + 1e-5) | (estimates.upper_T < exact_T - 1e-5)))
    )
    _windows(judged, estimates, probes, report)


def _fitted(states: States, vocabulary: int) -> TailModel:
    """c(s) after these windows, fitted as the daemon does it: window by window, with old windows faded."""
    moments = TailMoments()
    probes = len(np.unique(states.probe_S))
    for start in range(0, states.sequences, probes):
        window = states.of_sequences(start, start + probes)
        estimate = estimate_tokens(window.sampled_T, window.top_TK, moments.fit(), vocabulary)
        moments = moments.followed_by(estimate.tail)
    return moments.fit()


def _record(judged: States, estimates: TokenEstimates, probes: int) -> None:
    """Writes every answer's sum and length to bench/data/, where `bench.detector` reads them to make windows."""
    totals = SequenceTotals.of(judged.split(estimates.control_variate_T))
    by_probe = [judged.probe_S == probe for probe in range(probes)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "probe_sequences.json").write_text(
        json.dumps(
            {
                "nats": [[round(float(value), 2) for value in totals.sums_S[own]] for own in by_probe],
                "tokens": [[int(value) for value in totals.counts_S[own]] for own in by_probe],
            }
        )
        + "\n"
    )


def _windows(judged: States, estimates: TokenEstimates, probes: int, report: Report) -> None:
    """Measures the variance of windows with as many sequences as there are probes, and the coverage of their intervals.

    A window draws its sequences at random, so they are independent, as the interval assumes. The daemon's windows ask
    the same probes each time, so they differ by less, and the interval covers more often.
    """
    rng = np.random.default_rng(0)
    totals = {
        "exact": SequenceTotals.of(judged.split(judged.exact_T)),
        "cv": SequenceTotals.of(judged.split(estimates.control_variate_T)),
        "mc": SequenceTotals.of(judged.split(estimates.monte_carlo_T)),
    }
    truth = float(judged.exact_T.mean())
    by_probe = [np.flatnonzero(judged.probe_S == probe) for probe in range(probes)]
    draws = {
        "": [rng.integers(0, judged.sequences, probes) for _ in range(RESAMPLES)],
        "_same_probes": [np.array([rng.choice(own) for own in by_probe]) for _ in range(RESAMPLES)],
    }
    for kind, windows in draws.items():
        means: dict[str, list[float]] = {name: [] for name in totals}
        covered = 0
        for window in windows:
            for name, total in totals.items():
                drawn = SequenceTotals(total.sums_S[window], total.counts_S[window])
                means[name].append(float(drawn.sums_S.sum() / drawn.counts_S.sum()))
                if name == "cv":
                    interval = drawn.interval(CONFIDENCE)
                    covered += interval.low <= truth <= interval.high
        variance = {name: statistics.variance(values) for name, values in means.items()}
        report.result(f"ci_coverage{kind}", covered / RESAMPLES)
        report.result(f"cv_variance_vs_exact{kind}", variance["cv"] / variance["exact"])
        report.result(f"mc_variance_vs_exact{kind}", variance["mc"] / variance["exact"])
        report.result(f"window_sd{kind}", variance["cv"] ** 0.5, "nats")


@dataclass
class Engine:
    url: str
    tap: TapEar | None = None


async def tap_error(engine: Engine) -> float:
    """The tap's mean less that of float64 on the full-vocabulary logprobs of the same tokens, in nats."""
    assert engine.tap is not None
    body = {"model": "base", "prompt": "Once upon a time", "max_tokens": EXACT_TOKENS, "temperature": 1.0, "seed": 1,
            "ignore_eos": True, "logprobs": -1, "return_tokens_as_token_ids": True,
            "vllm_xargs": tags("exact", "probe")}  # fmt: skip
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session,
        session.post(f"{engine.url}/v1/completions", json=body) as answer,
    ):
        content = await answer.text()
        assert answer.status == 200, content[:500]
    rows = json.loads(content)["choices"][0]["logprobs"]["top_logprobs"]
    exact = []
    for row in rows:
        # The logprobs are fp32, so their sum differs from 1 by rounding, which is divided out.
        logprobs = np.array(list(row.values()), dtype=np.float64)
        logprobs -= np.log(np.exp(logprobs).sum())
        exact.append(float(-(np.exp(logprobs) * logprobs).sum()))
    sums = engine.tap.sums_of("exact", len(exact), "probe")
    assert sums.tokens == len(exact), f"the tap counted {sums.tokens} tokens of {len(exact)}"
    return abs(sums.entropy / sums.tokens - statistics.fmean(exact))


async def throughput(url: str, turn: int) -> float:
    """Completion tokens per second of `CONCURRENCY` sampled streams of fixed length, prefill included."""
    prompts = [
        [1000 + (turn * 7919 + stream * 131 + place * 17) % 40000 for place in range(PROMPT_TOKENS)]
        for stream in range(CONCURRENCY)
    ]

    async def one(session: aiohttp.ClientSession, prompt: list[int]) -> None:
        body = {"model": "base", "prompt": prompt, "max_tokens": NEW_TOKENS, "ignore_eos": True,
                "vllm_xargs": tags("load", "live")}  # fmt: skip
        async with session.post(f"{url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            await answer.read()

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        started = time.perf_counter()
        await asyncio.gather(*(one(session, prompt) for prompt in prompts))
        return CONCURRENCY * NEW_TOKENS / (time.perf_counter() - started)


async def tap_overhead(tapped: Engine, plain: Engine, report: Report) -> None:
    """Measures the throughput lost to the tap.

    In every turn, both engines run the same prompts one after the other; which one is first alternates.
    """
    for engine in (tapped, plain):
        await throughput(engine.url, 0)
    ratios = []
    for turn in range(1, TURNS + 1):
        order = (tapped, plain) if turn % 2 else (plain, tapped)
        speeds = {id(engine): await throughput(engine.url, turn) for engine in order}
        ratios.append(speeds[id(tapped)] / speeds[id(plain)])
        print(
            f"turn {turn}: {speeds[id(tapped)]:.0f} tokens/s with the tap, {speeds[id(plain)]:.0f} without", flush=True
        )
    ratio, margin = pseudomedian(ratios)
    report.result("tap_overhead", 1 - ratio)
    report.result("tap_overhead_margin", margin, "(95%)")


async def monitor_overhead(engine: Engine, model: Path, report: Report) -> None:
    """Measures the share of an otherwise idle engine's time that the windows of the default schedule take."""
    async with EngineClient(engine.url) as client:
        meter = EntropyMeter(
            client,
            load_probes(TaskOptions(), SETTINGS),
            max_tokens=MAX_TOKENS,
            top_k=SETTINGS.top_k,
            confidence=SETTINGS.confidence,
            vocab_size=vocabulary_size(model),
        )
        seconds = [(await meter.measure("base", seed=seed)).seconds for seed in range(6)][1:]
    window = statistics.median(seconds)
    report.result("window_seconds", window, "s")
    report.result("monitor_overhead", window / SETTINGS.pause_after(window))


def main() -> None:
    report = Report("entropy")
    model = resolve_policy(BUILTIN_POLICY)
    vocabulary = vocabulary_size(model)
    states = sample_states(
        model,
        load_probes(TaskOptions(), SETTINGS),
        rounds=ROUNDS,
        max_tokens=MAX_TOKENS,
        top_k=SETTINGS.top_k,
    )
    estimators(states, vocabulary, report)
    with tempfile.TemporaryDirectory(prefix="reheatd-bench-") as scratch, ExitStack() as running:
        listener = running.enter_context(tap_socket("127.0.0.1:0"))
        address = "{}:{}".format(*listener.getsockname())
        print("starting two engines (about a minute)", flush=True)
        options = {"kv_cache_bytes": 256 << 20, "extra_args": ["--max-logprobs", "-1"]}
        folder = Path(scratch)
        tapped = Engine(
            running.enter_context(running_engine(model, folder / "tap.log", tap_address=address, **options)),
            TapEar(listener),
        )
        plain = Engine(running.enter_context(running_engine(model, folder / "plain.log", **options)))
        report.result("tap_error_nats", asyncio.run(tap_error(tapped)), "nats")
        asyncio.run(tap_overhead(tapped, plain, report))
        asyncio.run(monitor_overhead(plain, model, report))
    report.write(model=model.name, top_k=SETTINGS.top_k, rounds=ROUNDS, probes=SETTINGS.probe_count, turns=TURNS)


if __name__ == "__main__":
    main()
