"""How many probes a wanted width takes: what is planned is what comes out."""

import asyncio
from typing import cast

import pytest

from reheatd.engine.client import EngineClient
from reheatd.entropy.meter import EntropyMeter
from reheatd.entropy.plan import TOP_KS, PlannedWindow, plan_windows
from reheatd.entropy.probes import ProbeSet
from reheatd.errors import BadInputError
from tests.unit.test_entropy_monitor import SimulatedEngine


def probes(count: int) -> ProbeSet:
    return ProbeSet(tuple(({"role": "user", "content": str(index)},) for index in range(count)), "digest")


def plan(width: float) -> list[PlannedWindow]:
    return asyncio.run(
        plan_windows(SimulatedEngine(), "base", probes(200), width=width, max_tokens=16, confidence=0.95, seed=1)
    )


def test_more_logprobs_take_fewer_probes() -> None:
    planned = plan(0.1)
    assert [window.top_k for window in planned] == [0, *TOP_KS]
    assert planned[0].probes > 2 * planned[-1].probes


def test_a_window_of_the_planned_size_has_the_wanted_width() -> None:
    monte_carlo, *_ = plan(0.15)
    meter = EntropyMeter(
        cast(EngineClient, SimulatedEngine()), probes(monte_carlo.probes), max_tokens=16, top_k=5, confidence=0.95
    )
    window = asyncio.run(meter.measure("base", seed=9))
    assert window.monte_carlo.high - window.monte_carlo.low == pytest.approx(0.15, rel=0.15)
    assert monte_carlo.tokens == monte_carlo.probes * 16


def test_half_the_width_takes_four_times_the_probes() -> None:
    wide, narrow = plan(0.1)[0], plan(0.05)[0]
    assert narrow.probes == pytest.approx(4 * wide.probes, rel=0.05)


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_a_width_that_nothing_has_is_refused(width: float) -> None:
    with pytest.raises(BadInputError, match="width"):
        plan(width)
