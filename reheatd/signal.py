"""Signal that was lost and found: problems that a policy never solves, but its base does, or a remedy does again.

The problems of a `Signal` are those of which all answers of the policy failed. It answers them once more with other
random numbers, as every candidate does: having been chosen for their failures, they would seem to improve by chance
alone otherwise.
"""

import math

from pydantic import Field

from reheatd.measures import Accuracy, Contract, PassRate

ALPHA = 0.05
"""Largest chance at which a policy that restored nothing counts as one that did."""


class Reach(Contract):
    """What could be had back: what the base solves of the held-out problems, and the policy does not."""

    base: PassRate
    """The base's pass@k, at the largest k that was measured."""
    policy: PassRate
    """The policy's pass@k on the same problems."""
    lost: int
    """Problems that the base solved in at least one of k answers, and the policy in none."""
    problems: int
    samples: int
    """Answers of the base that this took, once for all versions."""

    @classmethod
    def between(cls, base: Accuracy | None, policy: Accuracy | None) -> "Reach | None":
        """None unless both were measured on the same problems, with as many answers."""
        if base is None or policy is None or not base.pass_at or not policy.solved:
            return None
        if (base.problem_set, base.samples) != (policy.problem_set, policy.samples):
            return None
        return cls(
            base=base.pass_at[-1],
            policy=policy.pass_at[-1],
            lost=sum(old > 0 and not new for old, new in zip(base.solved, policy.solved, strict=True)),
            problems=policy.problems,
            samples=base.problems * base.samples,
        )

    def __str__(self) -> str:
        return (
            f"pass@{self.base.k} {self.base.value:.1%} of the base, {self.policy.value:.1%} of the policy; "
            f"{self.lost} of {self.problems} problems solved by the base alone"
        )


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
