"""The decision whether what answers is what was trained, and the order in which the engine is asked."""

import asyncio
from typing import Any

import numpy as np
import pytest

from bench.proof_rates import DELIVERED, KINDS, Recording
from reheatd.adapters.evidence import Evidence, Proof, next_difference
from reheatd.adapters.lineage import ProofItem
from reheatd.adapters.proof import Proving, by_information, prove
from reheatd.engine.client import Score
from reheatd.errors import DeliveryError

TOKENS = 400
LOOK = 40
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


def judge(said: dict[str, Any], *, tolerance: float = 0.1) -> Proof:
    """The proof with a look after every `LOOK` tokens."""
    parts = [
        {who: said[who][start : start + LOOK].tolist() for who in said}
        for start in range(0, len(said["engine_new"]), LOOK)
    ]
    items = [
        ProofItem(
            prompt_ids=[1], completion_ids=[1] * LOOK, logprobs=part["trainer_new"], base_logprobs=part["trainer_base"]
        )
        for part in parts
    ]
    evidence = Evidence("policy-v1", items, tolerance=tolerance)
    for item, part in zip(items, parts, strict=True):
        evidence.add(item, part["engine_base"], part["engine_new"], 0.0, 0.0)
        proof = evidence.verdict()
        if proof is not None:
            return proof
    return evidence.last_verdict()


def test_a_large_change_is_proven_by_few_tokens() -> None:
    report = judge(figures(1.0))
    assert report.tokens <= 2 * LOOK
    assert report.slope == pytest.approx(1, abs=4 * report.slope_error)
    assert report.mean_difference < 0.05
    assert report.rounding == pytest.approx(NOISE, rel=0.3)


def test_a_small_but_real_change_holds_after_more() -> None:
    """Smaller than the rounding between the two implementations."""
    report = judge(figures(1.0, change=0.02))
    assert report.slope > 0.5
    assert report.tokens == TOKENS
    judge(figures(1.0, change=0.03, trainer_noise=NOISE))


@pytest.mark.parametrize("arrived", [0.0, 1.0])
def test_a_change_that_drowns_in_rounding_proves_nothing(arrived: float) -> None:
    with pytest.raises(DeliveryError, match=r"cannot be told from the base .* train longer"):
        judge(figures(arrived, change=0.003, trainer_noise=NOISE))


@pytest.mark.parametrize("arrived", [0.0, 0.5, 2.0, -1.0])
def test_an_adapter_that_did_not_arrive_or_is_scaled_is_refused_soon(arrived: float) -> None:
    with pytest.raises(DeliveryError, match=r"what answers is not what was trained: over (40|80) tokens"):
        judge(figures(arrived))


@pytest.mark.parametrize("arrived", [0.0, 0.5, 2.0, -1.0])
def test_the_slope_catches_what_the_distance_does_not(arrived: float) -> None:
    with pytest.raises(DeliveryError):
        judge(figures(arrived, change=0.12), tolerance=10.0)


def test_another_adapter_of_the_same_size_is_refused() -> None:
    mine, other = figures(1.0), figures(1.0)
    mine["engine_new"] = mine["engine_base"] + np.random.default_rng(1).permutation(
        other["trainer_new"] - other["trainer_base"]
    )
    with pytest.raises(DeliveryError, match="slope"):
        judge(mine, tolerance=10.0)


def test_a_sibling_within_the_tolerance_is_refused() -> None:
    """Its slope is 1 and its distance is allowed, but rounding does not explain how far it is off."""
    said = figures(1.0)
    judge(said)
    said["engine_new"] += np.random.default_rng(1).normal(0, 0.09, TOKENS)
    assert np.abs(said["engine_new"] - said["trainer_new"]).mean() < 0.09
    with pytest.raises(DeliveryError, match="what answers is not what was trained"):
        judge(said)


def test_what_cannot_be_proven_is_refused() -> None:
    with pytest.raises(DeliveryError, match="too little to prove"):
        judge(figures(1.0, change=1e-4))
    broken = figures(1.0)
    broken["engine_new"][3] = np.nan
    with pytest.raises(DeliveryError, match="policy-v1 answers with logprobs that are not finite"):
        judge(broken)
    broken = figures(1.0)
    broken["trainer_new"][3] = np.nan
    with pytest.raises(DeliveryError, match=r"trainer's logprobs .* not finite"):
        judge(broken)


def test_no_recorded_wrong_adapter_holds_and_every_right_one_does() -> None:
    """`bench.swap` says the rates with more proofs; of what is wrong here, none comes near to holding."""
    recording, rng = Recording(), np.random.default_rng(0)
    assert recording.rate(DELIVERED, 250, rng).refused == 0
    assert {kind: recording.rate(kind, 20, rng).held for kind in KINDS} == dict.fromkeys(KINDS, 0)


def test_tokens_that_the_cache_no_longer_ranks_count_as_far_as_they_must_have_fallen() -> None:
    assert next_difference({1: -0.5, 2: -1.5}, {1: -0.5, 2: -1.5}) == 0
    assert next_difference({1: -0.5, 2: -1.5}, {1: -0.7, 3: -2.5}) == pytest.approx((0.2 + 1.0) / 2)


class Scorer:
    """Stands in for an engine on which the adapter has arrived: each token's logprob is 1 above or below the base's."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        """Model and first token of the completion, for each completion that was scored."""
        self.salts: list[str | None] = []
        self.stale = self.rough = 0.0
        """How far answers from the cache are off, and how far those without are."""

    async def score(self, model: str, prompt_ids: list[int], completion_ids: list[int]) -> list[float]:
        self.asked.append((model, prompt_ids[0]))
        return [-3.0 + (model != "base") * (1 if token % 2 else -1) for token in completion_ids]

    async def score_and_next(
        self, model: str, prompt_ids: list[int], completion_ids: list[int], *, top_k: int
    ) -> Score:
        return Score(await self.score(model, prompt_ids, completion_ids), {5: -1.0})

    async def next_logprobs(
        self, model: str, prompt_ids: list[int], *, top_k: int, cache_salt: str | None = None
    ) -> dict[int, float]:
        self.salts.append(cache_salt)
        return {5: -1.0 + (self.rough if cache_salt else self.stale)}


def items(count: int = 4, tokens: int = 30) -> list[ProofItem]:
    ids = list(range(tokens))
    new = [-2.0 if token % 2 else -4.0 for token in ids]
    return [
        ProofItem(prompt_ids=[index], completion_ids=ids, logprobs=new, base_logprobs=[-3.0] * tokens)
        for index in range(count)
    ]


def test_the_engine_is_asked_no_more_than_it_takes() -> None:
    scorer: Any = Scorer()
    report = asyncio.run(prove(scorer, "policy-v1", items(), tolerance=0.1))
    assert report.tokens == 30
    assert sorted(scorer.asked) == [("base", 0), ("policy-v1", 0)]
    assert scorer.salts == [None]


def test_the_base_is_scored_while_the_adapter_is_loaded() -> None:
    scorer: Any = Scorer()

    async def body() -> None:
        proving = Proving(scorer, "policy-v1", items(), tolerance=0.1)
        await asyncio.sleep(0)
        assert scorer.asked == [("base", 0)]
        await proving.finish("policy-v1-0a1b")
        assert scorer.asked == [("base", 0), ("policy-v1-0a1b", 0)]

    asyncio.run(body())


def test_short_items_come_before_long_ones_that_tell_no_more() -> None:
    short, long = items(2)
    long = long.model_copy(update={"prompt_ids": [7] * 50})
    weak = short.model_copy(update={"logprobs": [-3.01] * 30})
    assert by_information([weak, long, short]) == [short, long, weak]


@pytest.mark.parametrize(("rough", "held"), [(0.0, False), (0.2, True)])
def test_a_cache_that_differs_holds_only_if_rounding_explains_it(rough: float, held: bool) -> None:
    scorer: Any = Scorer()
    scorer.stale, scorer.rough = 0.3, rough

    async def body() -> None:
        await prove(scorer, "policy-v1", items(), tolerance=0.1)

    if held:
        asyncio.run(body())
    else:
        with pytest.raises(DeliveryError, match="prefix cache that other weights have filled"):
            asyncio.run(body())
    assert scorer.salts[1] is not None


def test_items_without_figures_are_refused() -> None:
    scorer: Any = Scorer()
    with pytest.raises(DeliveryError, match="without proof items"):
        asyncio.run(prove(scorer, "policy-v1", [], tolerance=0.1))
    short = ProofItem(prompt_ids=[1], completion_ids=[1, 2], logprobs=[-1], base_logprobs=[-2, -2])
    with pytest.raises(DeliveryError, match="one logprob per token"):
        asyncio.run(prove(scorer, "policy-v1", [short], tolerance=0.1))
