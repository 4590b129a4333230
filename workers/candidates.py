"""The order in which `auto` tries remedies, and its choice among the candidates that they make."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from reheatd.errors import BadInputError
from reheatd.options import Remedy
from reheatd.signal import Signal, is_restored

CHEAP: tuple[Remedy, ...] = ("shrink", "ts_opsd")
COSTLY: tuple[Remedy, ...] = ("entropy_bonus", "hot")
"""Remedies that are a whole job of RL; they are tried only if no cheap one brings signal back."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """What a remedy made of the policy."""

    remedy: Remedy
    made: T
    signal: Signal


def make_candidates(before: Signal, make: Callable[[Remedy], Candidate[T]]) -> list[Candidate[T]]:
    """The candidates, the one with most signal first; of equals, the one that was cheaper to make.

    A remedy that cannot be applied to this policy makes none.

    Args:
        before: The parent's signal.
        make: Applies a remedy to the parent, and measures the outcome.

    Raises:
        BadInputError: No remedy can be applied.
    """
    found: list[Candidate[T]] = []
    reasons: list[str] = []
    for remedies in (CHEAP, COSTLY):
        for remedy in remedies:
            try:
                found.append(make(remedy))
            except BadInputError as error:
                logger.warning("%s makes no candidate: %s", remedy, error.message)
                reasons.append(f"{remedy}: {error.message}")
        if not before.lost or any(is_restored(before, candidate.signal) for candidate in found):
            break
    if not found:
        raise BadInputError(f"no remedy can be applied; {'; '.join(reasons)}", param="remedy")
    return sorted(found, key=lambda candidate: _strength(candidate.signal), reverse=True)


def _strength(signal: Signal) -> tuple[int, float]:
    return signal.varied, signal.success.value if signal.success else 0.0
