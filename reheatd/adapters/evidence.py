"""The evidence that an adapter arrived: a sequential test, which ends as soon as it can tell.

With c the trainer's change of a token's logprob from base to adapter, e the engine's, d = engine - trainer under the
adapter, b = engine - trainer under the base and s the slope of e regressed on c, four statements hold if the adapter
arrived. They are about means over tokens:

    |d| <= tolerance                     the engine answers what the trainer computed
    s >= 0.8 f                           the change arrived in full
    s <= 1.25                            and not in excess
    |d| <= 1.5 |b| + 0.05 |c|            what is off is rounding and not the change of another adapter

f = 1 - mean b^2 / mean c^2, because rounding in the trainer flattens the slope of a small change.

After each item, each of the four gets a confidence interval by Student's t, that of the slope from its residuals. The
adapter holds once all four intervals are on the right side, and is refused once one of them is on the wrong side
(Jennison and Turnbull, "Interim analyses: the repeated confidence interval approach", J. R. Stat. Soc. B 51, 1989). At
look k, an interval may miss with a probability that is divided by k (k + 1), so that the sum over all looks, however
many there are, is `FALSE_ALARM` for refusals and `FALSE_HOLD` for holding. For a refusal it is also divided by four,
because any of the four can refuse. For holding it need not be, because all four must hold. What is wrong by far is
wrong by far in one of them, so `FALSE_HOLD` is reached only by what is at the very edge of what is allowed.

After the last item the figures themselves decide. An adapter has the benefit of the doubt about its slope, because a
small change leaves much of it. It has none about the distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from reheatd.adapters.lineage import ProofItem
from reheatd.errors import DeliveryError

FALSE_ALARM = 1e-3
"""Largest probability that an adapter which arrived is refused before the last item."""
FALSE_HOLD = 1e-2
"""Largest probability that something which just misses what is allowed holds before the last item. After the last item,
every second one does."""
SMALLEST_CHANGE = 1e-3
"""Smallest root mean square change from base to adapter that can be told from none, in nats per token."""
SLOPE_LOW, SLOPE_HIGH = 0.8, 1.25
STANDARD_ERRORS = 3.0
"""At the end, a slope counts as out of range only if it is out by more than this number of its own standard errors."""
DISTANCE_ERRORS = 2.0
"""At the end, a distance has to be within the tolerance by this number of its standard errors."""
ROUNDING_FACTOR = 1.5
"""Rounding under an adapter may be this many times the rounding under the base."""
OTHER_SHARE = 0.05
"""Share of the change by which an adapter may be off without being another one."""
CACHE_SHARE = 0.15
"""Share of the tolerance by which logprobs with and without the cache may differ more than rounding makes them."""
CACHE_ROUNDING_FACTOR = 2.0
"""Rounding may make them differ this many times as much as with a cache that is empty for sure."""


@dataclass(frozen=True)
class Proof:
    """Figures of a proof that held, in nats per token."""

    tokens: int
    """Number of tokens that were compared before it could be told."""
    mean_difference: float
    """Mean absolute difference between engine and trainer under the new adapter."""
    change: float
    """Root mean square change from base to adapter, as the trainer computes it."""
    rounding: float
    """Root mean square difference between engine and trainer under the base."""
    slope: float
    """Regression slope of the engine's change on the trainer's."""
    slope_error: float
    """Standard error of the slope."""


class Evidence:
    """What engine and trainer say about the same tokens.

    Args:
        items: The items in the order in which they will be added.
        tolerance: Largest mean absolute difference between engine and trainer, in nats per token.
        leniency: Factor on what is allowed for rounding.

    Raises:
        DeliveryError: The items cannot prove anything.
    """

    def __init__(self, model: str, items: Sequence[ProofItem], *, tolerance: float, leniency: float = 1.0) -> None:
        self._model = model
        self._tolerance = leniency * tolerance
        self._rounding_factor = leniency * ROUNDING_FACTOR
        trainer_new, trainer_base = (
            np.concatenate([getattr(item, field) for item in items]) for field in ("logprobs", "base_logprobs")
        )
        if not (np.isfinite(trainer_new).all() and np.isfinite(trainer_base).all()):
            raise DeliveryError(f"the trainer's logprobs of {model} are not finite; training diverged")
        size = _rms(trainer_new - trainer_base)
        if size < SMALLEST_CHANGE:
            raise DeliveryError(
                f"{model} changes the base by {size:.1e} nats per token, too little to prove that it arrived; "
                "train longer or with a larger learning rate"
            )
        self._new, self._base = np.empty((2, 0)), np.empty((2, 0))
        """Logprobs under the adapter and under the base, by trainer and engine, [2, T]."""
        self._cache: list[float] = []
        """For each item, how much more logprobs with and without the cache differ than rounding makes them."""

    @property
    def cache_allowance(self) -> float:
        """How much logprobs with and without the cache may differ before rounding has to be asked about, in nats."""
        return CACHE_SHARE * self._tolerance

    def add(self, item: ProofItem, base: list[float], scored: list[float], cache: float, rounding: float) -> None:
        """Adds one item.

        Args:
            base: The engine's logprobs of the completion under the base.
            scored: The engine's logprobs of the completion under the adapter.
            cache: Difference of the engine's logprobs with and without the cache; see `next_difference`.
            rounding: The same with a cache that is empty for sure; 0 if nobody needed to know.

        Raises:
            DeliveryError: The engine's logprobs are not finite.
        """
        if not np.isfinite([*scored, *base, cache, rounding]).all():
            raise DeliveryError(f"{self._model} answers with logprobs that are not finite; its weights are broken")
        self._new = np.hstack([self._new, [item.logprobs, scored]])
        self._base = np.hstack([self._base, [item.base_logprobs, base]])
        self._cache.append(max(0.0, cache - CACHE_ROUNDING_FACTOR * rounding))

    def verdict(self) -> Proof | None:
        """The proof, as soon as it can be told that the adapter arrived; None as long as it cannot be told.

        Raises:
            DeliveryError: It can be told that something else answers.
        """
        excess_ST = self._excess()
        tokens = excess_ST.shape[1]
        if tokens < 2:
            return None
        mean_S = excess_ST.mean(1)
        error_S = excess_ST.std(1, ddof=1) / np.sqrt(tokens)
        look = len(self._cache) * (len(self._cache) + 1)
        if (mean_S - _quantile(FALSE_ALARM / look / len(mean_S), tokens) * error_S > 0).any():
            raise self._refusal()
        holds = (mean_S + _quantile(FALSE_HOLD / look, tokens) * error_S < 0).all()
        return self._proof() if holds and np.mean(self._cache) <= self.cache_allowance else None

    def last_verdict(self) -> Proof:
        """The proof after the last item.

        Raises:
            DeliveryError: Something else answers, or it cannot be told from the base.
        """
        cache = float(np.mean(self._cache))
        if not cache <= self.cache_allowance:
            raise DeliveryError(
                f"{self._model} answers from a prefix cache that other weights have filled: its logprobs with and "
                f"without the cache differ by {cache:.3f} nats more than by rounding (allowed "
                f"{self.cache_allowance:.3f}); restart the engine"
            )
        proof = self._proof()
        margin = STANDARD_ERRORS * proof.slope_error
        lowest = SLOPE_LOW * _flattening(proof.rounding, proof.change)
        excess_ST = self._excess()
        near = excess_ST[0].mean() + DISTANCE_ERRORS * excess_ST[0].std() / np.sqrt(proof.tokens) <= 0
        if near and proof.slope - margin <= 0 and (proof.change <= proof.rounding or proof.slope + margin >= lowest):
            raise DeliveryError(
                f"{self._model} cannot be told from the base through the engine; train longer or with a larger "
                f"learning rate ({_figures(proof, self._tolerance)})"
            )
        another = excess_ST[-1].mean() > 0
        if not near or another or not lowest - margin <= proof.slope <= SLOPE_HIGH + margin:
            raise self._refusal()
        return proof

    def _excess(self) -> np.ndarray:
        """By how much each token exceeds what each statement allows on average, [S, T].

        For the slope, that is linear in its residual: the mean is the slope's, and the deviations are what each token
        contributes to the slope's error.
        """
        change_T, arrived_T = self._new - self._base
        off_T, rounding_T = self._new[1] - self._new[0], self._base[1] - self._base[0]
        power = float(np.mean(change_T**2))
        slope = float(np.mean(change_T * arrived_T)) / power
        slope_T = slope + change_T * (arrived_T - slope * change_T) / power
        return np.stack(
            [
                np.abs(off_T) - self._tolerance,
                SLOPE_LOW * _flattening(_rms(rounding_T), _rms(change_T)) - slope_T,
                slope_T - SLOPE_HIGH,
                np.abs(off_T) - self._rounding_factor * np.abs(rounding_T) - OTHER_SHARE * np.abs(change_T),
            ]
        )

    def _proof(self) -> Proof:
        change_T, arrived_T = self._new - self._base
        power = float(np.dot(change_T, change_T))
        slope = float(np.dot(change_T, arrived_T)) / power
        residual_T = arrived_T - slope * change_T
        return Proof(
            tokens=len(change_T),
            mean_difference=float(np.abs(self._new[1] - self._new[0]).mean()),
            change=_rms(change_T),
            rounding=_rms(self._base[1] - self._base[0]),
            slope=slope,
            slope_error=float(np.sqrt(np.dot(residual_T, residual_T) / max(len(change_T) - 1, 1) / power)),
        )

    def _refusal(self) -> DeliveryError:
        figures = _figures(self._proof(), self._tolerance)
        return DeliveryError(f"{self._model} was loaded, but what answers is not what was trained: {figures}")


def _figures(proof: Proof, tolerance: float) -> str:
    return (
        f"over {proof.tokens} tokens, engine and trainer differ by {proof.mean_difference:.3f} nats (allowed "
        f"{tolerance}); the adapter changes the base by {proof.change:.3f} nats, rounding alone by "
        f"{proof.rounding:.3f}; slope of the change {proof.slope:.2f} ± {proof.slope_error:.2f} (1 when delivered)"
    )


def next_difference(computed: dict[int, float], other: dict[int, float]) -> float:
    """Mean absolute difference of the logprobs of the likeliest next tokens, in nats.

    A token that is not among the likeliest of the other is at most as likely there as the last of them.
    """
    last = min(other.values())
    pairs = [(logprob, other.get(token, min(logprob, last))) for token, logprob in computed.items()]
    return float(np.mean([abs(one - two) for one, two in pairs]))


def _quantile(probability: float, tokens: int) -> float:
    return float(stdtrit(tokens - 1, 1 - probability))


def _flattening(rounding: float, size: float) -> float:
    return max(0.0, 1 - (rounding / size) ** 2) if size else 0.0


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
