"""Turns entropy windows into a verdict: ok, warning, collapsed or too hot. Pure and deterministic.

The fifth verdict, `stalled`, comes from the learning signal of RL, and `with_signal` joins the two.
"""

from dataclasses import dataclass
from typing import Literal

from reheatd.config_tables import EntropySection
from reheatd.entropy.regime import Run, Thresholds, thresholds
from reheatd.measures import Contract, EntropyEstimate

Verdict = Literal["ok", "warning", "collapsed", "too_hot", "stalled"]
Origin = Literal["base", "rl", "imported", "reheat", "cool"]
"""How a version was made."""


def with_signal(verdict: Verdict, stalled: bool) -> Verdict:
    """The verdict on a policy from that on its entropy and from its learning signal.

    `collapsed` and `too_hot` win, because they say why nothing is learned; `stalled` wins over `ok` and `warning`.
    """
    return "stalled" if stalled and verdict in ("ok", "warning") else verdict


class DetectorState(Contract):
    """Everything that the detector remembers between two windows."""

    version: int
    verdict: Verdict
    """Verdict on the entropy alone."""
    low: int = 0
    """Consecutive windows of this version whose upper confidence limit was below the collapse threshold."""
    high: int = 0
    """Consecutive windows of this version whose lower confidence limit was above the threshold of `too_hot`."""
    run: Run = Run()


@dataclass(frozen=True)
class CollapseDetector:
    """Verdict on a version's windows.

    A window is low when its upper confidence limit is below the collapse threshold, and high when its lower limit is
    above the threshold of `too_hot`; see `thresholds`. After `patience` low windows in a row the verdict is
    `collapsed`, and it stays so until an estimate is above the warning threshold. `too_hot` works in the same way on
    the other side. Any other version gets a `warning` when its window is low or high, or when the estimate is below
    the warning threshold.
    """

    settings: EntropySection

    def step(
        self,
        state: DetectorState | None,
        version: int,
        estimate: EntropyEstimate,
        baseline: float,
        *,
        origin: Origin,
    ) -> DetectorState:
        """The state after one more window.

        Args:
            state: The state so far. None, or the state of another version, starts counting afresh, because one
                version's windows say nothing about another.
            version: The version that the window measured.
            estimate: The window's estimate, nats per token.
            baseline: The reference policy's entropy, nats per token, above 0.
            origin: How the version was made. The base, and a version older than that of `state`, begin a new run. A
                reheat gives the run a new start, and any other version continues it.
        """
        if state is None or state.version != version:
            run = Run() if state is None or origin == "base" or version < state.version else state.run
            if origin in ("reheat", "cool"):
                run = Run(stable=run.stable)
            state = DetectorState(version=version, verdict="ok", run=run.followed_by(estimate.mean, baseline))
        limits = self.thresholds(state.run, baseline)
        low = state.low + 1 if estimate.high < limits.collapsed else 0
        high = state.high + 1 if limits.too_hot is not None and estimate.low > limits.too_hot else 0
        verdict = self._verdict(state.verdict, estimate.mean, limits, low, high)
        return DetectorState(version=version, verdict=verdict, low=low, high=high, run=state.run)

    def thresholds(self, run: Run, baseline: float) -> Thresholds:
        """The thresholds for the next window of a run."""
        return thresholds(self.settings, baseline=baseline, stable=run.stable, lowest=run.lowest)

    def _verdict(self, before: Verdict, mean: float, limits: Thresholds, low: int, high: int) -> Verdict:
        if low >= self.settings.patience or (before == "collapsed" and mean <= limits.warning):
            return "collapsed"
        if limits.too_hot is not None:
            cooled = mean <= limits.too_hot / (1 + self.settings.margin)
            if high >= self.settings.patience or (before == "too_hot" and not cooled):
                return "too_hot"
        return "warning" if low or high or mean < limits.warning else "ok"

    def is_undecided(self, state: DetectorState) -> bool:
        """Whether the last window was low or high, but `patience` asks for more such windows before a verdict."""
        return (state.low > 0 and state.verdict != "collapsed") or (state.high > 0 and state.verdict != "too_hot")
