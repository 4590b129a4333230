"""A simulated engine whose policies' next-token distributions, and so their entropies, are known."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reheatd.config_tables import EntropySection
from reheatd.engine.client import EngineClient, Sample, TokenLogprobs
from reheatd.entropy.meter import EntropyMeter
from tests.probes import task_probes

MAX_TOKENS = 24
SETTINGS = EntropySection.model_validate(
    {"probe_count": 40, "max_tokens": MAX_TOKENS, "interval_s": 3600, "baseline_windows": 2, "collapse_ratio": 0.5}
)
NOISE = 0.15  # nats: far outside what a window of 960 independent tokens can be off by, whatever its seed
LOGITS_V = np.random.default_rng(0).normal(0, 2, size=300)


def logprobs_at(temperature: float) -> np.ndarray:
    logits_V = LOGITS_V / temperature
    return logits_V - np.logaddexp.reduce(logits_V)


def exact_entropy(temperature: float) -> float:
    logprobs_V = logprobs_at(temperature)
    return float(-(np.exp(logprobs_V) * logprobs_V).sum())


class SimulatedEngine(EngineClient):
    """Answers for models of a given temperature; each token is an independent draw."""

    def __init__(self) -> None:
        self.temperatures = {"base": 1.0}
        self.asked: list[tuple[str, int | None]] = []
        self.in_flight = self.most_in_flight = 0
        self.failures: list[Exception] = []
        self.before_answer: Callable[[], None] = lambda: None

    async def chat(  # type: ignore[override]
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float,
        max_tokens: int,
        top_k: int,
        seed: int | None,
    ) -> list[Sample]:
        assert temperature == 1.0
        self.asked.append((model, seed))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        self.before_answer()
        if self.failures:
            raise self.failures.pop()
        logprobs_V = logprobs_at(self.temperatures[model])
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(logprobs_V), size=max_tokens, p=np.exp(logprobs_V))
        top = sorted(logprobs_V.tolist(), reverse=True)[:top_k]
        tokens = [TokenLogprobs(logprob=float(logprobs_V[x]), top=top) for x in drawn]
        return [
            Sample(
                prompt_ids=[1],
                token_ids=[int(x) for x in drawn],
                text=" ".join(map(str, drawn)),
                logprobs=[token.logprob for token in tokens],
                tokens=tokens,
                finish_reason="length",
            )
        ]


def make_meter(engine: SimulatedEngine, **changes: Any) -> EntropyMeter:
    values = {"max_tokens": MAX_TOKENS, "top_k": SETTINGS.top_k, "confidence": 0.95, **changes}
    return EntropyMeter(engine, task_probes(SETTINGS.probe_count), **values)
