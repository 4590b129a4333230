"""The learning signal that a remedy brought back: problems that a policy never solved, and that it solves again.

The problems are those of which all answers of the policy failed. It answers them once more with other random numbers,
as every candidate does: having been chosen for their failures, they would seem to improve by chance alone otherwise.
"""

import math

from pydantic import Field

from reheatd.measures import Contract, PassRate

ALPHA = 0.05
"""Largest chance at which a policy that restored nothing counts as one that did."""


class Signal(Contract):
    """What one policy makes of the problems that had become all-fail."""

    problems: int
    """Problems that were tried to find them."""
    lost: int
    """Of these, problems of which all answers of the policy failed."""
    answers: int
    """Answers per problem."""
    rewarded: list[int] = Field(default_factory=list)
    """Number of answers to each lost problem with a reward above 0."""
    varied: int
    """Number of lost problems whose rewards differ, from which RL would learn."""
    success: PassRate | None
    """Share of the answers to lost problems with a reward above 0, with its 95% interval; None if no problem is
    lost."""
    samples: int
    """Completions that were sampled for these figures alone."""

    @property
    def found(self) -> int:
        """Number of lost problems with at least one rewarded answer."""
        return sum(count > 0 for count in self.rewarded)

    def __str__(self) -> str:
        if self.success is None:
            return f"none of {self.problems} problems is lost"
        share = self.success
        return (
            f"{self.found} of {self.lost} lost problems found again, {self.varied} of them vary, "
            f"success {share.value:.2%} [{share.low:.2%}, {share.high:.2%}]"
        )


def chance_of_nothing(before: Signal, after: Signal) -> float:
    """The chance of at least this many problems found again if the remedy had changed nothing (exact McNemar test).

    Only problems that one of the two policies solves count. If nothing had changed, each would fall to either with
    equal chance. A problem counts once, however many of its answers are right, since those depend on each other.
    """
    pairs = [(old > 0, new > 0) for old, new in zip(before.rewarded, after.rewarded, strict=True)]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    tosses = gained + lost
    return sum(math.comb(tosses, heads) for heads in range(gained, tosses + 1)) / 2**tosses


def is_restored(before: Signal, after: Signal) -> bool:
    """Whether the remedy brought signal back, beyond what chance explains."""
    return chance_of_nothing(before, after) <= ALPHA
