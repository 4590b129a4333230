"""The outcome of the experiment: the records of all runs, and what is read from them seed by seed."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from examples.countdown.arms import CONTINUED
from examples.countdown.plan import Plan
from examples.countdown.records import Curve, Record, Step
from examples.countdown.runs import Run

TAKE_OFF = 0.05
"""Mean reward at which RL has taken off."""
TAKE_OFF_STEPS = 10
"""Steps over which the mean is taken."""


def take_off(steps: Sequence[Step], budget: int) -> int | None:
    """Completions until RL takes off; None if it does not within the budget.

    That is the first step at which the newest `TAKE_OFF_STEPS` steps have a mean reward of at least `TAKE_OFF`. With
    fewer steps there is no mean yet.
    """
    for end in range(TAKE_OFF_STEPS, len(steps) + 1):
        newest = steps[end - TAKE_OFF_STEPS : end]
        if statistics.fmean(step.reward for step in newest) >= TAKE_OFF and newest[-1].samples <= budget:
            return newest[-1].samples
    return None


def noop_share(steps: Sequence[Step]) -> float:
    """Share of steps in which no group varied, so that they changed nothing; 0 if there was no step."""
    return statistics.fmean(step.varied == 0 for step in steps) if steps else 0.0


@dataclass(frozen=True)
class Outcome:
    """All runs of a plan. Every list that a method returns has one value per seed, in the plan's order."""

    plan: Plan
    records: dict[Run, Record]

    def collapses(self, name: str) -> list[Curve]:
        return [self.records[Run("collapse", seed, name)].curve for seed in self.plan.seeds]

    def decisions(self, scenario: str) -> list[Record]:
        return [self.records[Run("decision", seed, scenario)] for seed in self.plan.seeds]

    def arm(self, scenario: str, arm: str) -> list[Curve]:
        return [self.records[Run("arm", seed, scenario, arm)].curve for seed in self.plan.seeds]

    def last(self, scenario: str, arm: str, metric: str) -> list[float]:
        """A measurement at the end of the budget."""
        return [getattr(curve.points[-1], metric) for curve in self.arm(scenario, arm)]

    def differences(self, scenario: str, arm: str, metric: str) -> list[float]:
        """A measurement at the end of the budget, less that of the arm that went on from the same policy."""
        pairs = zip(self.last(scenario, arm, metric), self.last(scenario, CONTINUED, metric), strict=True)
        return [value - rival for value, rival in pairs]

    def cascade(self, arm: str, shift: int) -> list[Curve]:
        return [self.records[Run("cascade", seed, arm=arm)].curves[shift] for seed in self.plan.seeds]

    def take_offs(self, scenario: str, arm: str) -> list[float | None]:
        size = self.plan.scenarios[scenario]
        return [take_off(curve.steps, size.steps * size.shape.step) for curve in self.arm(scenario, arm)]
