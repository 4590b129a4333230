"""Measures the entropy of a served model once, through its API. The daemon and its workers share this code."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field, InstanceOf

from reheatd.engine.client import Sample, TokenLogprobs
from reheatd.entropy.estimators import (
    SequenceTotals,
    TailModel,
    TailMoments,
    TokenEstimates,
    clustered_interval,
    diversity,
    estimate_tokens,
)
from reheatd.entropy.probes import ProbeSet
from reheatd.errors import BadInputError, EngineError
from reheatd.measures import Contract, EntropyEstimate, PositionMean
from reheatd.tap.moments import Moments


class Sampler(Protocol):
    """The part of `EngineClient` that the meter uses."""

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float,
        max_tokens: int,
        top_k: int,
        seed: int | None,
    ) -> list[Sample]: ...


class WindowFigures(Contract):
    """Figures of one window, for which every probe was sampled once from one model. Entropies are in nats per token."""

    model: str
    """The pinned name that was sampled."""
    seed: int
    seconds: float
    """How long the measurement took."""
    estimate: EntropyEstimate
    """The control variate's estimate, on which all decisions are based."""
    monte_carlo: EntropyEstimate
    truncated: EntropyEstimate
    """The estimate from the top k alone, which is too low."""
    lower: float
    """Mean of the deterministic lower bounds on the visited states."""
    upper: float | None
    """Mean of the deterministic upper bounds; None if the vocabulary's size is not known."""
    distinct: float
    """Share of distinct answers among the samples."""
    by_position: list[PositionMean] = Field(default_factory=list)
    """The estimate by position in the answer. Empty in a window of reheatd 0.1."""


class Measurement(WindowFigures):
    """The figures of a window, with what later windows need of it."""

    totals: InstanceOf[SequenceTotals]
    """The control variate's sums by probe, for pooling windows."""
    tail: InstanceOf[TailMoments]
    """The tail draws of this window, to which `TailModel` is fitted for later windows."""
    samples: list[InstanceOf[Sample]] = Field(default_factory=list)
    """The samples, one per probe, in the order of the probes."""


class EntropyMeter:
    """Samples a fixed probe set at temperature 1 and estimates the policy's token entropy.

    Args:
        client: A client of the engine, or of the gateway in front of it.
        probes: Every measurement samples all of them once, so that measurements are comparable.
        max_tokens: Tokens of the longest sample; None if it is to be found, see `reheatd.entropy.answer_length`.
        top_k: Top logprobs per token.
        confidence: Level of the intervals.
        vocab_size: Size of the model's output distribution; see `vocabulary_size`. Without it there is no upper bound.
        at_once: Probes that are sampled at once, at most.
    """

    def __init__(
        self,
        client: Sampler,
        probes: ProbeSet,
        *,
        max_tokens: int | None,
        top_k: int,
        confidence: float,
        vocab_size: int | None = None,
        at_once: int = 48,
    ) -> None:
        self.probes = probes
        self.max_tokens = max_tokens
        self.top_k = top_k
        self.confidence = confidence
        self.tail_model = TailModel()
        """c(s) of the next measurement. The keeper of a series sets it from earlier windows."""
        self._client = client
        self._vocab_size = vocab_size
        self._slots = asyncio.Semaphore(at_once)

    async def measure(self, model: str, *, seed: int, on_sample: Callable[[], None] | None = None) -> Measurement:
        """Measures one window on a model.

        Args:
            model: A pinned name rather than the alias.
            seed: Every probe gets a seed of its own, derived from this one.
            on_sample: Called after each probe. An exception from it ends the measurement.

        Raises:
            EngineError: A probe could not be sampled, or the engine returned logprobs that are not numbers. There is
                no partial result, because a mean over the probes that happened to succeed is another quantity.
        """
        if self.max_tokens is None:
            raise RuntimeError("the length of answers has to be found before a window is measured")
        started = time.monotonic()
        tail_model = self.tail_model
        samples = await self.sample(model, seed=seed, max_tokens=self.max_tokens, top_k=self.top_k, on_sample=on_sample)
        estimates = [self.estimates(model, sample.tokens, tail_model) for sample in samples]
        totals = SequenceTotals.of([estimate.control_variate_T for estimate in estimates])
        bounded = [estimate.upper_T for estimate in estimates if estimate.upper_T is not None]
        moments = TailMoments()
        for estimate in estimates:
            moments += estimate.tail
        return Measurement(
            model=model,
            seed=seed,
            seconds=time.monotonic() - started,
            estimate=totals.interval(self.confidence),
            monte_carlo=clustered_interval([estimate.monte_carlo_T for estimate in estimates], self.confidence),
            truncated=clustered_interval([estimate.truncated_T for estimate in estimates], self.confidence),
            lower=float(np.concatenate([estimate.lower_T for estimate in estimates]).mean()),
            upper=float(np.concatenate(bounded).mean()) if bounded else None,
            distinct=diversity([sample.text for sample in samples]),
            by_position=_by_position(estimates),
            totals=totals,
            tail=moments,
            samples=samples,
        )

    async def sample(
        self, model: str, *, seed: int, max_tokens: int, top_k: int = 0, on_sample: Callable[[], None] | None = None
    ) -> list[Sample]:
        """Samples every probe once at temperature 1, in their order; see `measure` for the arguments.

        Raises:
            EngineError: A probe could not be sampled.
        """
        # With one seed for all probes, every probe would get the same random numbers, and the samples would correlate.
        seeds = np.random.SeedSequence(seed).generate_state(len(self.probes))

        async def sample(index: int) -> Sample:
            async with self._slots:
                answers = await self._client.chat(
                    model,
                    list(self.probes.probes[index]),
                    temperature=1.0,
                    max_tokens=max_tokens,
                    top_k=top_k,
                    seed=int(seeds[index]),
                )
            if on_sample is not None:
                on_sample()
            return answers[0]

        tasks = [asyncio.create_task(sample(index)) for index in range(len(self.probes))]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def estimates(
        self, model: str, tokens: Sequence[TokenLogprobs], tail_model: TailModel | None = None
    ) -> TokenEstimates:
        """Estimates the entropy of every state in which one of these tokens was sampled.

        Args:
            model: What errors call the model.
            tail_model: c(s); default: the present one.

        Raises:
            EngineError: A logprob is not a number, or a token has too few top logprobs.
        """
        sampled_T = np.array([token.logprob for token in tokens], dtype=np.float64)
        rows = [token.top[: self.top_k] for token in tokens]
        if any(len(row) < self.top_k for row in rows):
            # Rows may be shorter than k only if the vocabulary is; they get a token of probability 0 at the end.
            if any(sum(map(math.exp, row)) < 0.999 for row in rows):
                raise EngineError(f"model {model} returned fewer than {self.top_k} top logprobs for a token")
            rows = [row + [-math.inf] * (self.top_k + 1 - len(row)) for row in rows]
        top_TK = np.array(rows, dtype=np.float64).reshape(len(rows), -1) if rows else np.empty((0, 1))
        if not np.isfinite(sampled_T).all() or np.isnan(top_TK).any():
            raise EngineError(f"model {model} returned a logprob that is not a number; its weights are broken")
        return estimate_tokens(sampled_T, top_TK, tail_model or self.tail_model, self._vocab_size)


def _by_position(estimates: Sequence[TokenEstimates]) -> list[PositionMean]:
    moments = Moments()
    for estimate in estimates:
        moments.add(estimate.control_variate_T.tolist())
    return moments.by_position()


def vocabulary_size(model_path: Path) -> int:
    """The number of logits of the model in `model_path`, from its `config.json`.

    Raises:
        BadInputError: The file cannot be read, or it has no such entry.
    """
    file = model_path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{file} cannot be read; point policy.model at a folder with a model") from error
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if not isinstance(size, int):
        raise BadInputError(f"{file} names no vocab_size; point policy.model at a folder with a language model")
    return size
