"""The decision whether what answers is what was trained."""

import asyncio
from typing import Any

import numpy as np
import pytest

from reheatd.adapters.lineage import ProofItem
from reheatd.adapters.proof import judge, prove
from reheatd.errors import DeliveryError

TOKENS = 400
NOISE = 0.03
"""Standard deviation between two implementations in bfloat16, nats."""


def figures(arrived: float, change: float = 0.3, trainer_noise: float = 0.0) -> dict[str, Any]:
    """Trainer's and engine's logprobs when the engine has `arrived` times the trainer's change."""
    rng = np.random.default_rng(0)
    base, delta = -rng.exponential(2, TOKENS), rng.normal(0, change, TOKENS)
    return {
        "engine_new": base + arrived * delta + rng.normal(0, NOISE, TOKENS),
        "engine_base": base + rng.normal(0, NOISE, TOKENS),
        "trainer_new": base + delta + rng.normal(0, trainer_noise, TOKENS),
        "trainer_base": base + rng.normal(0, trainer_noise, TOKENS),
    }


def test_a_delivered_adapter_holds() -> None:
    report = judge("policy-v1", **figures(1.0), tolerance=0.1)
    assert report.tokens == TOKENS
    assert report.slope == pytest.approx(1, abs=3 * report.slope_error)
    assert report.mean_difference < 0.05


def test_a_small_but_real_change_holds() -> None:
    """Smaller than the rounding between the two implementations."""
    assert judge("policy-v1", **figures(1.0, change=0.02), tolerance=0.1).slope > 0.5
    judge("policy-v1", **figures(1.0, change=0.03, trainer_noise=NOISE), tolerance=0.1)


@pytest.mark.parametrize("arrived", [0.0, 1.0])
def test_a_change_that_drowns_in_rounding_proves_nothing(arrived: float) -> None:
    with pytest.raises(DeliveryError, match=r"cannot be told from the base .* train longer"):
        judge("policy-v1", **figures(arrived, change=0.003, trainer_noise=NOISE), tolerance=0.1)


@pytest.mark.parametrize("arrived", [0.0, 0.5, 2.0, -1.0])
def test_an_adapter_that_did_not_arrive_or_is_scaled_is_refused(arrived: float) -> None:
    with pytest.raises(DeliveryError, match="what answers is not what was trained"):
        judge("policy-v1", **figures(arrived), tolerance=0.1)


@pytest.mark.parametrize("arrived", [0.0, 0.5, 2.0, -1.0])
def test_the_slope_catches_what_the_distance_does_not(arrived: float) -> None:
    with pytest.raises(DeliveryError):
        judge("policy-v1", **figures(arrived, change=0.12), tolerance=10.0)


def test_another_adapter_of_the_same_size_is_refused() -> None:
    mine, other = figures(1.0), figures(1.0)
    mine["engine_new"] = mine["engine_base"] + np.random.default_rng(1).permutation(
        other["trainer_new"] - other["trainer_base"]
    )
    with pytest.raises(DeliveryError, match="slope"):
        judge("policy-v1", **mine, tolerance=10.0)


def test_what_cannot_be_proven_is_refused() -> None:
    with pytest.raises(DeliveryError, match="too little to prove"):
        judge("policy-v1", **figures(1.0, change=1e-4), tolerance=0.1)
    broken = figures(1.0)
    broken["engine_new"][3] = np.nan
    with pytest.raises(DeliveryError, match="not finite"):
        judge("policy-v1", **broken, tolerance=0.1)
    broken = figures(1.0)
    broken["trainer_new"][3] = np.nan
    with pytest.raises(DeliveryError, match=r"trainer's logprobs .* not finite"):
        judge("policy-v1", **broken, tolerance=0.1)


class Scorer:
    """Stands in for an engine on which the adapter has arrived: -1 under it, -2 under the base, both off by `noise`."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.asked: list[str] = []
        self.open = self.most_open = 0

    async def score(self, model: str, prompt_ids: list[int], completion_ids: list[int]) -> list[float]:
        self.asked.append(model)
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        await asyncio.sleep(0)
        self.open -= 1
        signs = [1 if (prompt_ids[0] + token) % 2 else -1 for token in completion_ids]
        return [(-2.0 if model == "base" else -1.0) + self.noise * sign for sign in signs]

    async def score_next(self, model: str, prompt_ids: list[int], token: int) -> float:
        return (await self.score(model, prompt_ids, [token]))[0]


def items(count: int = 4) -> list[ProofItem]:
    return [
        ProofItem(prompt_ids=[index], completion_ids=[1, 2], logprobs=[-1, -1], base_logprobs=[-2, -2])
        for index in range(count)
    ]


def test_completions_are_scored_one_at_a_time() -> None:
    """All at once they would hold up the tokens of every client."""
    scorer: Any = Scorer()
    asyncio.run(prove(scorer, "policy-v1", items(), tolerance=0.5))
    assert scorer.most_open == 1


def test_the_base_is_scored_only_where_rounding_could_be_taken_for_the_change() -> None:
    near: Any = Scorer(noise=0.1)
    assert asyncio.run(prove(near, "policy-v1", items(), tolerance=0.5)).slope == pytest.approx(1)
    assert "base" not in near.asked
    far: Any = Scorer(noise=0.4)
    assert asyncio.run(prove(far, "policy-v1", items(), tolerance=0.5)).rounding == pytest.approx(0.4)
    assert far.asked.count("base") == 4


def test_items_without_figures_are_refused() -> None:
    scorer: Any = Scorer()
    with pytest.raises(DeliveryError, match="without proof items"):
        asyncio.run(prove(scorer, "policy-v1", [], tolerance=0.1))
    short = ProofItem(prompt_ids=[1], completion_ids=[1, 2], logprobs=[-1], base_logprobs=[-2, -2])
    with pytest.raises(DeliveryError, match="one logprob per token"):
        asyncio.run(prove(scorer, "policy-v1", [short], tolerance=0.1))
