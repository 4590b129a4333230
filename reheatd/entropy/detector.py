"""Turns entropy windows into a verdict: ok, warning or collapsed. Pure and deterministic."""

from dataclasses import dataclass
from typing import Literal

from reheatd.config import EntropySection
from reheatd.measures import EntropyEstimate

Verdict = Literal["ok", "warning", "collapsed"]


@dataclass(frozen=True)
class DetectorState:
    """Everything that the detector remembers between two windows."""

    version: int
    verdict: Verdict
    streak: int
    """Consecutive windows of this version whose upper confidence limit was below the collapse threshold."""


@dataclass(frozen=True)
class CollapseDetector:
    """Verdict on a version's windows relative to the baseline entropy.

    A window is low when its upper confidence limit is below `collapse_ratio` times the baseline. After `patience` low
    windows in a row the verdict is `collapsed`, and it stays so until an estimate is above `recovery_ratio` times the
    baseline. A version that has not collapsed gets a `warning` when its window is low, or when the estimate is below
    `warning_ratio` times the baseline.
    """

    collapse_ratio: float
    warning_ratio: float
    recovery_ratio: float
    patience: int

    @classmethod
    def from_settings(cls, settings: EntropySection) -> "CollapseDetector":
        return cls(settings.collapse_ratio, settings.warning_ratio, settings.recovery_ratio, settings.patience)

    def step(
        self, state: DetectorState | None, version: int, estimate: EntropyEstimate, baseline: float
    ) -> DetectorState:
        """The state after one more window.

        Args:
            state: The state so far. None, or the state of another version, starts afresh, because one version's
                windows say nothing about another.
            version: The version that the window measured.
            estimate: The window's estimate, nats per token.
            baseline: The reference policy's entropy, nats per token, above 0.
        """
        if state is None or state.version != version:
            state = DetectorState(version, "ok", 0)
        streak = state.streak + 1 if estimate.high < self.collapse_ratio * baseline else 0
        collapsed = streak >= self.patience
        if state.verdict == "collapsed":
            collapsed = estimate.mean <= self.recovery_ratio * baseline
        if collapsed:
            return DetectorState(version, "collapsed", streak)
        warning = streak > 0 or estimate.mean < self.warning_ratio * baseline
        return DetectorState(version, "warning" if warning else "ok", streak)

    def is_undecided(self, state: DetectorState) -> bool:
        """Whether the last window was low, but `patience` asks for more low windows before a collapse is called."""
        return state.streak > 0 and state.verdict != "collapsed"
