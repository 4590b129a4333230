"""One measurement of a simulated policy whose entropy is known."""

import asyncio
from typing import Any

import pytest

from reheatd.engine.client import Sample, TokenLogprobs
from reheatd.errors import EngineError
from tests.unit.entropy_support import LOGITS_V, MAX_TOKENS, SETTINGS, SimulatedEngine, exact_entropy, make_meter


def test_measurement_agrees_with_the_exact_entropy() -> None:
    async def story() -> None:
        engine = SimulatedEngine()
        measurement = await make_meter(engine, vocab_size=len(LOGITS_V)).measure("base", seed=5)
        exact = exact_entropy(1.0)
        assert measurement.estimate.low < exact < measurement.estimate.high
        assert measurement.estimate.high - measurement.estimate.low < (
            measurement.monte_carlo.high - measurement.monte_carlo.low
        )
        assert measurement.upper is not None
        assert measurement.truncated.mean < measurement.lower < exact < measurement.upper
        assert measurement.estimate.tokens == SETTINGS.probe_count * MAX_TOKENS
        assert measurement.distinct == 1.0
        assert len(measurement.samples) == SETTINGS.probe_count == engine.most_in_flight

    asyncio.run(story())


def test_entropy_by_position_adds_up_to_the_estimate() -> None:
    measurement = asyncio.run(make_meter(SimulatedEngine()).measure("base", seed=5))
    bins = [(each.position, each.tokens) for each in measurement.by_position]
    count = SETTINGS.probe_count
    assert bins == [(0, count), (1, count), (2, 2 * count), (4, 4 * count), (8, 8 * count), (16, 8 * count)]
    total = sum(each.tokens * each.mean for each in measurement.by_position)
    assert total / measurement.estimate.tokens == pytest.approx(measurement.estimate.mean)


def test_windows_that_are_measured_together_share_the_places_for_probes() -> None:
    async def story() -> None:
        engine = SimulatedEngine()
        meter = make_meter(engine)
        await asyncio.gather(*(meter.measure("base", seed=seed) for seed in range(2)))
        assert len(engine.asked) == 2 * SETTINGS.probe_count
        assert engine.most_in_flight == 48

    asyncio.run(story())


def test_every_probe_gets_its_own_seed_and_a_seed_repeats_the_window() -> None:
    async def story() -> None:
        engine = SimulatedEngine()
        meter = make_meter(engine)
        first = await meter.measure("base", seed=5)
        assert len({seed for _, seed in engine.asked}) == SETTINGS.probe_count
        assert (await meter.measure("base", seed=5)).estimate == first.estimate
        assert (await meter.measure("base", seed=6)).estimate != first.estimate

    asyncio.run(story())


def test_one_failed_probe_fails_the_measurement_and_leaves_nothing_running() -> None:
    async def story() -> None:
        engine = SimulatedEngine()
        engine.failures = [EngineError("the engine went away")]
        with pytest.raises(EngineError, match="went away"):
            await make_meter(engine).measure("base", seed=1)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(story())


def test_logprobs_that_are_no_numbers_are_an_engine_error() -> None:
    class Broken(SimulatedEngine):
        async def chat(self, model: str, messages: list[dict[str, Any]], **options: Any) -> list[Sample]:  # type: ignore[override]
            token = TokenLogprobs(logprob=float("nan"), top=[-1.0] * 20)
            return [Sample([1], [1], "x", [float("nan")], [token], "length")]

    with pytest.raises(EngineError, match="policy-v3 returned a logprob that is not a number"):
        asyncio.run(make_meter(Broken()).measure("policy-v3", seed=1))
