"""Proof of delivery: shows that the adapter that answers is the one that was trained.

The trainer hands over probe completions with the logprobs that it computed under the new adapter and under the bare
base. The engine scores the same completions under the new name. If the change is so small that rounding could be taken
for it, the engine also scores them under the base.

Engine and trainer differ by rounding. So the proof compares not only their distance but also the *change* from base to
adapter, by regressing the engine's change on the trainer's. The slope is 1 if the adapter arrived, 0 if it did not, and
s if it arrived scaled by s. Rounding in the trainer flattens the slope of a small change. The distance of engine and
trainer under the base bounds how much.

Scoring computes every prompt anew, while answers read what the engine's prefix cache holds. So the proof asks for the
last token of each completion once more in the way answers are generated. That finds a cache that other weights have
filled.
"""

from dataclasses import dataclass

import numpy as np

from reheatd.adapters.lineage import ProofItem
from reheatd.engine.client import EngineClient
from reheatd.errors import DeliveryError
from reheatd.names import BASE_MODEL_NAME

SMALLEST_CHANGE = 1e-3
"""Smallest root mean square change from base to adapter that can be told from none, in nats per token."""
SLOPE_LOW, SLOPE_HIGH = 0.8, 1.25
STANDARD_ERRORS = 3.0
"""A slope counts as out of range only if it is out by more than this number of its own standard errors."""
PLAIN = 0.25
"""If engine and trainer differ by less than this share of the change, rounding can neither be taken for a change nor
hide one. The trainer's logprobs under the base then stand in for the engine's."""


@dataclass(frozen=True)
class Proof:
    """Figures of a proof that held, in nats per token."""

    tokens: int
    mean_difference: float
    """Mean absolute difference between engine and trainer under the new adapter."""
    change: float
    """Root mean square change from base to adapter, as the trainer computes it."""
    rounding: float
    """Root mean square difference between engine and trainer under the base; 0 if the engine did not score the base."""
    slope: float
    """Regression slope of the engine's change on the trainer's."""
    slope_error: float
    """Standard error of the slope."""


async def prove(client: EngineClient, model: str, items: list[ProofItem], *, tolerance: float) -> Proof:
    """Scores `items` through the engine and compares the logprobs with the trainer's.

    Args:
        tolerance: Largest mean absolute difference between engine and trainer, in nats per token.

    Raises:
        DeliveryError: There is nothing to compare, the adapter changes nothing, or the engine's answers are not the
            trainer's.
        EngineError: The engine cannot be reached or refuses to score.
    """
    if not items:
        raise DeliveryError(f"{model} comes without proof items, so its delivery cannot be proven")
    for item in items:
        if not len(item.completion_ids) == len(item.logprobs) == len(item.base_logprobs) > 0:
            raise DeliveryError(f"{model} has a proof item that lacks one logprob per token; its trainer is at fault")
    trainer_new = np.concatenate([item.logprobs for item in items])
    trainer_base = np.concatenate([item.base_logprobs for item in items])
    scored: list[list[float]] = []
    cached: list[float] = []
    # One at a time, because many prompts at once would delay the clients' tokens, which the same engine steps decode.
    for item in items:
        scored.append(await client.score(model, item.prompt_ids, item.completion_ids))
        before = [*item.prompt_ids, *item.completion_ids[:-1]]
        cached.append(await client.score_next(model, before, item.completion_ids[-1]))
    _judge_cache(model, cached, [row[-1] for row in scored], tolerance=tolerance)
    engine_new = np.concatenate(scored)
    engine_base = trainer_base
    if not _rms(engine_new - trainer_new) < PLAIN * _rms(trainer_new - trainer_base):
        rows = [await client.score(BASE_MODEL_NAME, item.prompt_ids, item.completion_ids) for item in items]
        engine_base = np.concatenate(rows)
    return judge(model, engine_new, engine_base, trainer_new, trainer_base, tolerance=tolerance)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _judge_cache(model: str, cached: list[float], computed: list[float], *, tolerance: float) -> None:
    difference = float(np.mean(np.abs(np.subtract(cached, computed))))
    if not difference <= tolerance:
        raise DeliveryError(
            f"{model} answers from a prefix cache that other weights have filled: its logprobs with and without the "
            f"cache differ by {difference:.3f} nats (allowed {tolerance}); restart the engine"
        )


def judge(
    model: str,
    engine_new: np.ndarray,
    engine_base: np.ndarray,
    trainer_new: np.ndarray,
    trainer_base: np.ndarray,
    *,
    tolerance: float,
) -> Proof:
    """Decides on the logprobs of the same completions, by engine and trainer, under adapter and base.

    Each array has one logprob per token.

    Raises:
        DeliveryError: The adapter changes nothing, or the engine's answers are not the trainer's.
    """
    if not (np.isfinite(trainer_new).all() and np.isfinite(trainer_base).all()):
        raise DeliveryError(f"the trainer's logprobs of {model} are not finite; training diverged")
    if not np.isfinite(engine_new).all():
        raise DeliveryError(f"{model} answers with logprobs that are not finite; its weights are broken")
    change = trainer_new - trainer_base
    size = _rms(change)
    if size < SMALLEST_CHANGE:
        raise DeliveryError(
            f"{model} changes the base by {size:.1e} nats per token, too little to prove that it arrived; "
            "train longer or with a larger learning rate"
        )
    rounding = _rms(engine_base - trainer_base)
    flattened = max(0.0, 1 - (rounding / size) ** 2)
    engine_change = engine_new - engine_base
    slope = float(np.dot(change, engine_change) / np.dot(change, change))
    residual = engine_change - slope * change
    slope_error = float(np.sqrt(np.dot(residual, residual) / max(len(change) - 1, 1) / np.dot(change, change)))
    difference = float(np.mean(np.abs(engine_new - trainer_new)))
    proof = Proof(len(change), difference, size, rounding, slope, slope_error)
    figures = (
        f"engine and trainer differ by {difference:.3f} nats per token (allowed {tolerance}), slope of the change "
        f"{slope:.2f} ± {slope_error:.2f} (1 when delivered) over {len(change)} tokens"
    )
    margin = STANDARD_ERRORS * slope_error
    lowest = SLOPE_LOW * flattened
    if difference <= tolerance and slope - margin <= 0 and (size <= rounding or slope + margin >= lowest):
        raise DeliveryError(
            f"{model} cannot be told from the base through the engine: it changes the base by {size:.3f} nats per "
            f"token, and rounding alone by {rounding:.3f}; train longer or with a larger learning rate ({figures})"
        )
    if difference > tolerance or not lowest - margin <= slope <= SLOPE_HIGH + margin:
        raise DeliveryError(f"{model} was loaded, but what answers is not what was trained: {figures}")
    return proof
