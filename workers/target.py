"""The interval of entropies that count as a reheat's target."""

from dataclasses import dataclass

SLACK = 0.03
"""The target counts as reached this share of it early, which is less than the probe estimate's own standard error."""
OVERSHOOT = 0.1
"""A student whose entropy is beyond the target by more than this share of it is taken back."""


@dataclass(frozen=True)
class Target:
    """A target in nats per token, which the policy reaches from below (`upwards`) or from above."""

    entropy: float
    upwards: bool

    @property
    def low(self) -> float:
        return self.entropy * (1 - (SLACK if self.upwards else OVERSHOOT))

    @property
    def high(self) -> float:
        return self.entropy * (1 + (OVERSHOOT if self.upwards else SLACK))

    def is_inside(self, entropy: float) -> bool:
        return self.low <= entropy <= self.high

    def is_beyond(self, entropy: float) -> bool:
        return entropy > self.high if self.upwards else entropy < self.low
