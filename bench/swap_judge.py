"""Tells which answers are another version's than their header says, by their logprobs.

Rounding alone takes a short answer as far as 0.11 nats per token from what its own version should say, and two versions
may differ on a short answer by no more than twice that, on another by ten times as much. So each answer is held against
its own distance from the version before and the version after: it counts as another version's if it is further from its
own than half of that. A mixture of two versions does, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.swap_load import Answer
from bench.swap_reference import Reference


@dataclass(frozen=True)
class Judged:
    """What answers say about the version that gave them, in nats per token."""

    own_A: np.ndarray
    """Mean absolute difference of each answer from the version in its header."""
    others_A: np.ndarray
    """The same from the version before or the one after, whichever is nearer."""

    @classmethod
    def of(cls, reference: Reference, adapters: Sequence[Path], answers: Sequence[Answer]) -> "Judged":
        """Judges the answers that did not fail.

        Args:
            adapters: Those of versions 1, 2 and so on. The last one counts as the one before the first.
        """
        answered = [answer for answer in answers if not answer.error]
        own, before, after = (_differences(reference, adapters, answered, shift=shift) for shift in (0, -1, 1))
        return cls(own, np.minimum(before, after))

    @property
    def wrong(self) -> int:
        """Number of answers that are another version's."""
        return int((self.own_A > self.others_A / 2).sum())

    @property
    def nearest(self) -> float:
        """Least distance of an answer from the version before or after."""
        return float(self.others_A.min())


def _differences(
    reference: Reference, adapters: Sequence[Path], answers: Sequence[Answer], *, shift: int
) -> np.ndarray:
    """The mean absolute difference of each answer from a version.

    Args:
        shift: Which one: 0 for the version in its header, 1 for the one after.
    """
    found_A = np.empty(len(answers))
    for version in sorted({_number(answer) for answer in answers}):
        places = [place for place, answer in enumerate(answers) if _number(answer) == version]
        adapter = adapters[(version - 1 + shift) % len(adapters)]
        expected = reference.logprobs(adapter, [answers[place].token_ids for place in places])
        for place, row in zip(places, expected, strict=True):
            found_A[place] = np.abs(np.subtract(answers[place].logprobs, row)).mean()
    return found_A


def _number(answer: Answer) -> int:
    return int(answer.version.removeprefix("policy-v"))
