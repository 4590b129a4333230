"""The interval of entropies that count as a reheat's target, and how to measure whether a policy is inside it."""

from collections.abc import Callable
from dataclasses import dataclass

from reheatd.measures import EntropyEstimate

SLACK = 0.03
"""The target counts as reached this share of it early, which is less than the probe estimate's own standard error."""
OVERSHOOT = 0.1
"""A student whose entropy is beyond the target by more than this share of it is taken back."""
WINDOWS = 4
"""Number of probe windows that decide whether a policy is inside the target, at most."""


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

    def is_decided_by(self, estimate: EntropyEstimate) -> bool:
        """Whether noise leaves no doubt on which side of the target, or inside it, the policy is."""
        return (
            estimate.high < self.low
            or estimate.low > self.high
            or (self.low <= estimate.low and estimate.high <= self.high)
        )

    def measure(self, window: Callable[[int], EntropyEstimate]) -> EntropyEstimate:
        """Measures windows until together they decide the matter, `WINDOWS` of them at most.

        A search that takes the first window inside the target would prefer students that it measured wrongly. A policy
        far from the target costs one window.

        Args:
            window: Measures the probes; its argument, from 0 upwards, chooses the random numbers.
        """
        windows = [window(0)]
        while not self.is_decided_by(estimate := pooled(windows)) and len(windows) < WINDOWS:
            windows.append(window(len(windows)))
        return estimate


def pooled(windows: list[EntropyEstimate]) -> EntropyEstimate:
    """The mean over the tokens of several windows, in nats per token.

    Its interval is for these probes: it is at least as wide as what sampling them anew would change. All windows have
    the same prompts, so for other prompts it is too narrow; a baseline, which stands for the task, is pooled by probe.
    """
    tokens = sum(window.tokens for window in windows)
    mean = sum(window.mean * window.tokens for window in windows) / tokens
    half = sum((window.tokens * (window.high - window.low) / 2) ** 2 for window in windows) ** 0.5 / tokens
    return EntropyEstimate(
        mean=mean,
        low=mean - half,
        high=mean + half,
        tokens=tokens,
        sequences=sum(window.sequences for window in windows),
    )
