"""What counts as collapsed, as too hot and as stalled: the thresholds behind the verdicts. Pure.

The defaults are the regime of arXiv 2606.00755. A healthy run of RL falls to about 14% of the base policy's entropy
within its first 30 steps, while its reward climbs, and works there for hundreds of steps. It has collapsed below 10%.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from reheatd.config_tables import EntropySection
from reheatd.measures import Contract

STABLE_POLICIES = 20
"""Policies in a row whose entropy must be about the same before a run counts as stable."""
STABLE_SPREAD = 0.25
"""Largest relative distance from their median of the entropies in a stable phase, the outer tenths left out."""
STABLE_DRIFT = 0.1
"""Largest relative difference between the halves of a stable phase."""
TARGET = 1.5
"""A reheat leads to at least this many times the collapse threshold, as in the paper: from below 10% of the baseline to
15%."""
SETTLED = 0.5
"""A phase above this share of the baseline is no stable phase: the run has not begun to fall yet, or still falls. A
policy below it is not too hot either, however far it has come."""
TERSE = 2.0
"""The floor in nats is not used for a policy whose baseline is below this many times the floor. Such a policy is not
collapsed; its answers just leave little to choose."""


@dataclass(frozen=True)
class Thresholds:
    """Entropies between the verdicts, in nats per token."""

    collapsed: float
    """Below this a policy has collapsed."""
    warning: float
    """Below this a policy gets a warning, and a collapsed policy must rise above it to count as recovered."""
    too_hot: float | None
    """Above this entropy has run away; None where nothing is known of the run."""
    target: float
    """To this a reheat leads back: the run's stable phase, but well above `collapsed`."""
    because: str
    """The rule that `collapsed` comes from, for messages."""


def thresholds(
    settings: EntropySection,
    *,
    baseline: float | None,
    stable: float | None = None,
    lowest: float | None = None,
) -> Thresholds:
    """The thresholds for a policy; of several collapse thresholds the highest counts.

    Args:
        baseline: Entropy of the base policy, in nats per token; None if it is not known.
        stable: Entropy of the run's stable phase; None before there was one.
        lowest: Lowest entropy of the run's policies so far.
    """
    floors: list[tuple[float, str]] = [(0.0, "nothing is known that it could be compared with")]
    if baseline is not None:
        floors.append((settings.collapse_ratio * baseline, f"{settings.collapse_ratio:.0%} of the baseline"))
    if baseline is None or baseline >= TERSE * settings.collapse_nats:
        floors.append((settings.collapse_nats, "entropy.collapse_nats"))
    if stable is not None:
        share = settings.collapse_stable_share
        floors.append((share * stable, f"{share:.0%} of the run's stable phase"))
    collapsed, because = max(floors)
    too_hot = None
    if lowest is not None:
        too_hot = max(settings.too_hot_ratio * lowest, SETTLED * (baseline or 0.0))
    target = max(stable or 0.0, TARGET * collapsed)
    return Thresholds(collapsed, (1 + settings.margin) * collapsed, too_hot, target, because)


class Run(Contract):
    """What is remembered of a run of RL, in which every version continues the one before. In nats per token."""

    lowest: float | None = None
    """Lowest entropy of the run's policies."""
    recent: list[float] = Field(default_factory=list)
    """Entropies of the newest policies of the run, until it is stable."""
    stable: float | None = None
    """Entropy of the run's first stable phase."""

    def followed_by(self, entropy: float, baseline: float | None) -> "Run":
        """The run after one more policy."""
        lowest = entropy if self.lowest is None else min(self.lowest, entropy)
        if self.stable is not None:
            return Run(lowest=lowest, stable=self.stable)
        recent = [*self.recent, entropy][-STABLE_POLICIES:]
        level = stable_level(recent, baseline)
        return Run(lowest=lowest, recent=[] if level is not None else recent, stable=level)


def stable_level(entropies: Sequence[float], baseline: float | None) -> float | None:
    """The level of a stable phase; None if these entropies, the oldest first, are no stable phase."""
    if len(entropies) < STABLE_POLICIES:
        return None
    level = statistics.median(entropies)
    if baseline is not None and level >= SETTLED * baseline:
        return None
    outer = len(entropies) // 10
    inner = sorted(entropies)[outer : len(entropies) - outer]
    half = len(entropies) // 2
    drift = abs(statistics.median(entropies[half:]) - statistics.median(entropies[:half]))
    if max(level - inner[0], inner[-1] - level) > STABLE_SPREAD * level or drift > STABLE_DRIFT * level:
        return None
    return level


@dataclass(frozen=True)
class SignalStep:
    """The learning signal of one step of RL.

    The three shares of its groups of rollouts add up to 1, but for groups whose rewards are all equal and in between.
    """

    varied: float
    """Share of groups whose rewards differ, which are the only ones that teach something."""
    all_fail: float
    """Share of groups in which no rollout is rewarded."""
    all_pass: float
    """Share of groups in which every rollout is rewarded fully."""
    groups: float | None = None
    """Number of groups; None if it is not known."""


def mean_varied(steps: Sequence[SignalStep]) -> float:
    """Mean number of groups per step that vary. Where the number of groups is not known, a step counts as ten."""
    return statistics.fmean(step.varied * (10 if step.groups is None else step.groups) for step in steps)


def is_stalled(steps: Sequence[SignalStep], settings: EntropySection) -> bool:
    """Whether the newest `stall_steps` steps hold too few groups that vary, and most others fail.

    A policy that passes everything has solved its problems and is not stalled.
    """
    newest = steps[-settings.stall_steps :]
    if len(newest) < settings.stall_steps:
        return False
    failed = sum(step.all_fail for step in newest)
    passed = sum(step.all_pass for step in newest)
    return mean_varied(newest) <= settings.stall_groups and failed > passed


def stays_stalled(before: bool, steps: Sequence[SignalStep], settings: EntropySection) -> bool:
    """Whether a run is stalled after its newest step.

    Once it is, it stays so until the mean number of groups that vary is above `stall_groups` by `margin`.

    Args:
        before: Whether the run was stalled after the step before.
        steps: The newest `stall_steps` steps of the run, or all if there are fewer, the oldest first.
    """
    recovered = mean_varied(steps) > (1 + settings.margin) * settings.stall_groups
    return is_stalled(steps, settings) or (before and not recovered)
