"""Entropy of the tiny policy served by real vLLM, against its exact value from full-vocabulary logits."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from reheatd.config_tables import EntropySection
from reheatd.database import connect
from reheatd.engine.client import EngineClient, Sample
from reheatd.entropy.answer_length import AnswerLength
from reheatd.entropy.detector import CollapseDetector
from reheatd.entropy.estimators import TailModel, estimate_tokens
from reheatd.entropy.meter import EntropyMeter, Measurement, vocabulary_size
from reheatd.entropy.monitor import EntropyMonitor
from reheatd.entropy.series import EntropySeries
from reheatd.errors import NotFoundError
from tests.probes import task_probes

PROBES = 32
MAX_TOKENS = 48
TOP_K = 20
LOGPROB_NOISE = 0.05  # bf16 engine against fp32 reference, nats


class RecordingClient(EngineClient):
    def __init__(self, base_url: str) -> None:
        super().__init__(base_url)
        self.samples: list[Sample] = []

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[Sample]:
        samples = await super().chat(model, messages, **options)
        self.samples += samples
        return samples


class Served:
    """One measurement, its samples, and the reference's logprobs of every visited state."""

    def __init__(self, measurement: Measurement, samples: list[Sample], logprobs: list[np.ndarray]) -> None:
        self.measurement = measurement
        self.samples = samples
        self.logprobs_TV = np.concatenate(logprobs)
        self.exact_T = -(np.exp(self.logprobs_TV) * self.logprobs_TV).sum(axis=1)
        self.sampled_T = np.concatenate([sample.logprobs for sample in samples])
        self.top_TK = np.array([token.top for sample in samples for token in sample.tokens])


@pytest.fixture(scope="module")
def served(engine: str, tiny_policy: Path) -> Served:
    async def measure() -> tuple[Measurement, list[Sample]]:
        client = RecordingClient(engine)
        async with client:
            meter = EntropyMeter(
                client,
                task_probes(PROBES),
                max_tokens=MAX_TOKENS,
                top_k=TOP_K,
                confidence=0.95,
                vocab_size=vocabulary_size(tiny_policy),
            )
            return await meter.measure("base", seed=11), client.samples

    measurement, samples = asyncio.run(measure())
    return Served(measurement, samples, _reference_logprobs(tiny_policy, samples))


def _reference_logprobs(folder: Path, samples: list[Sample]) -> list[np.ndarray]:
    """Logprobs over the whole vocabulary at every state a sample's tokens were drawn in, [T, V] each."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for sample in samples:
        ids = torch.tensor([[*sample.prompt_ids, *sample.token_ids]])
        with torch.no_grad():
            logits_TV = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1].double()
        found.append(logits_TV.log_softmax(-1).numpy())
    return found


def test_every_drawn_token_counts_the_last_one_included(served: Served) -> None:
    drawn = sum(len(sample.token_ids) for sample in served.samples)
    assert served.measurement.estimate.tokens == drawn == len(served.exact_T) == len(served.top_TK)
    assert served.measurement.estimate.sequences == PROBES


def test_the_engine_tells_the_k_largest_logprobs_whatever_was_drawn(served: Served) -> None:
    reference_TK = -np.sort(-served.logprobs_TV, axis=1)[:, :TOP_K]
    outside_T = served.sampled_T < served.top_TK[:, -1]
    assert outside_T.sum() > 50
    for rows in (outside_T, ~outside_T):
        assert np.abs(served.top_TK[rows] - reference_TK[rows]).mean() < LOGPROB_NOISE


def test_the_estimate_agrees_with_exact_entropy_on_the_same_tokens(served: Served) -> None:
    measurement, exact = served.measurement, float(served.exact_T.mean())
    estimates = estimate_tokens(served.sampled_T, served.top_TK, TailModel(), served.logprobs_TV.shape[1])
    error_T = estimates.control_variate_T - served.exact_T
    assert measurement.estimate.mean == pytest.approx(float(estimates.control_variate_T.mean()))
    assert abs(error_T.mean()) < 4 * error_T.std() / len(error_T) ** 0.5 + LOGPROB_NOISE / 2
    assert measurement.estimate.low < exact < measurement.estimate.high
    assert np.var(error_T) < 0.5 * np.var(-served.sampled_T - served.exact_T)
    assert measurement.upper is not None
    assert measurement.truncated.mean < measurement.lower < exact < measurement.upper


def test_baseline_and_window_of_the_same_policy_are_ok(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    """On the task's probes, with answers whose length is found on the engine, within a small budget."""
    settings = EntropySection.model_validate({"probe_count": 16, "window_tokens": 16 * 40, "baseline_windows": 2})
    db = connect(tmp_path / "reheatd.sqlite3")

    async def story() -> None:
        async with EngineClient(engine) as client:
            meter = EntropyMeter(
                client, task_probes(16), max_tokens=None, top_k=settings.top_k, confidence=settings.confidence
            )
            series = EntropySeries(db, "tiny")
            monitor = EntropyMonitor(
                meter,
                series,
                CollapseDetector(settings),
                settings,
                lambda: (0, "base"),
                lambda version: "base",
                lambda version: False,
                answer_length=AnswerLength(settings.window_tokens, max_model_len=512),
            )
            window = await monitor.take_window()
            assert window.verdict == monitor.verdict == "ok"
            assert window.ratio == pytest.approx(1.0, abs=0.25)
            assert series.last(5) == [window]
            longest = monitor.max_tokens
            assert longest is not None
            assert longest == series.max_tokens() == (await monitor.probe_options()).max_tokens == 40
            assert 16 < window.estimate.tokens <= 16 * longest
            assert sum(each.tokens for each in window.by_position) == window.estimate.tokens
            assert window.by_position[-1].position == 32

    asyncio.run(story())
    db.close()


def test_an_unknown_model_is_an_error_and_no_value(engine: str) -> None:
    async def story() -> None:
        async with EngineClient(engine) as client:
            meter = EntropyMeter(client, task_probes(4), max_tokens=4, top_k=TOP_K, confidence=0.95)
            with pytest.raises(NotFoundError, match="policy-v9"):
                await meter.measure("policy-v9", seed=1)

    asyncio.run(story())
