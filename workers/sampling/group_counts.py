"""Groups of rollouts counted by their rewards: those that teach something, and what the others are like."""

from collections.abc import Sequence

from reheatd.measures import Contract
from workers.policy_gradient import rewards_vary

FULL_REWARD = 1.0


class GroupCounts(Contract):
    """Counts of groups. A group whose rewards are all equal, above 0 and below 1, is counted in `groups` alone.

    With several rewards, what varies is their weighted sum, and what fails or passes is the first of them.
    """

    groups: int = 0
    varied: int = 0
    """Groups whose rewards differ, which are the only ones that teach something."""
    all_fail: int = 0
    """Groups with equal rewards of which none is positive."""
    all_pass: int = 0
    """Groups with equal rewards that are all full, which is 1 or more."""

    @classmethod
    def of(cls, rewards: Sequence[float], solving: Sequence[float] | None = None) -> "GroupCounts":
        """The count of a single group.

        Args:
            solving: The first of several rewards, if `rewards` are their weighted sums.
        """
        if rewards_vary(rewards):
            return cls(groups=1, varied=1)
        solving = rewards if solving is None else solving
        return cls(groups=1, all_fail=int(max(solving) <= 0), all_pass=int(min(solving) >= FULL_REWARD))

    def __add__(self, other: "GroupCounts") -> "GroupCounts":
        return GroupCounts(
            groups=self.groups + other.groups,
            varied=self.varied + other.varied,
            all_fail=self.all_fail + other.all_fail,
            all_pass=self.all_pass + other.all_pass,
        )

    @property
    def metrics(self) -> dict[str, float]:
        """The counts as metrics of a step of RL, with the share of groups that teach nothing."""
        return {
            "groups": float(self.groups),
            "groups_varied": float(self.varied),
            "groups_all_fail": float(self.all_fail),
            "groups_all_pass": float(self.all_pass),
            "zero_variance_groups": (self.groups - self.varied) / max(1, self.groups),
        }


class Drought(Contract):
    """The newest steps of RL in a row in which no group varied."""

    steps: int = 0
    counts: GroupCounts = GroupCounts()

    def after(self, counts: GroupCounts) -> "Drought":
        """The drought after one more step."""
        return Drought() if counts.varied else Drought(steps=self.steps + 1, counts=self.counts + counts)

    def __str__(self) -> str:
        counts = self.counts
        groups = max(1, counts.groups)
        equal = counts.groups - counts.all_fail - counts.all_pass
        return (
            f"none of the {counts.groups} groups of the last {self.steps} steps varied: "
            f"{counts.all_fail / groups:.0%} failed, {counts.all_pass / groups:.0%} passed"
            + (f", {equal / groups:.0%} had equal rewards in between" if equal else "")
        )
