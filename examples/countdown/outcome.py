"""The outcome of the experiment: means over seeds, and differences to continued RL with the seeds paired."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.stats import t as student_t

from examples.countdown.arms import Choice, Measured
from examples.countdown.runs import Run

RIVAL = "continued"
METRICS = ("pass1", "pass16", "greedy", "entropy")
LABELS = {"pass1": "pass@1", "pass16": "pass@16", "greedy": "greedy", "entropy": "entropy, nats per token"}


class Interval(NamedTuple):
    """A mean over seeds with its 95% interval (Student's t)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        mean = statistics.fmean(values)
        error = statistics.stdev(values) / len(values) ** 0.5
        half = float(student_t.ppf(0.975, len(values) - 1)) * error
        return cls(mean, mean - half, mean + half)

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Outcome:
    """The measurements of all runs. Every list has one entry per seed, with the seeds in the same order."""

    collapses: list[list[Measured]]
    arms: dict[str, list[list[Measured]]]
    choices: dict[str, Choice]
    """The settings that tuning chose, by arm."""
    trials: dict[Run, list[Measured]]

    def last(self, arm: str, metric: str) -> list[float]:
        """The values of a metric at the end of the budget, by seed."""
        return [getattr(points[-1], metric) for points in self.arms[arm]]

    def difference(self, arm: str, metric: str) -> Interval:
        """The difference to continued RL from the same collapsed policy."""
        pairs = zip(self.last(arm, metric), self.last(RIVAL, metric), strict=True)
        return Interval.of([value - rival for value, rival in pairs])

    def figures(self) -> dict[str, float]:
        """Every figure by name."""
        figures: dict[str, float] = {"seeds": len(self.collapses)}
        for metric in METRICS:
            for place, name in ((0, "pretrained"), (-1, "collapsed")):
                figures[f"{metric}_{name}"] = statistics.fmean(getattr(c[place], metric) for c in self.collapses)
        for arm in self.arms:
            for metric in METRICS:
                figures[f"{metric}_{arm}"] = statistics.fmean(self.last(arm, metric))
        for arm in self.arms:
            if arm == RIVAL:
                continue
            for metric in METRICS:
                name = f"{metric}_{arm}_minus_{RIVAL}"
                difference = self.difference(arm, metric)
                figures |= {name: difference.mean, f"{name}_low": difference.low, f"{name}_high": difference.high}
        return figures

    def table(self) -> str:
        """A Markdown table of where the seeds started, how each arm ended, and how it differs from continued RL."""
        head = "| | learning rate | tau | " + " | ".join(LABELS[metric] for metric in METRICS) + " |"
        lines = [head, "|---|---|---|" + "---|" * len(METRICS)]
        for place, name in ((0, "pretrained"), (-1, "collapsed")):
            means = [statistics.fmean(getattr(c[place], metric) for c in self.collapses) for metric in METRICS]
            lines.append(f"| {name} | | | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
        for arm, choice in self.choices.items():
            tau = "" if arm == RIVAL else f"{choice.tau:g}"
            cells = [str(Interval.of(self.last(arm, metric))) for metric in METRICS]
            lines.append(f"| {arm} | {choice.learning_rate:g} | {tau} | " + " | ".join(cells) + " |")
        for arm in self.arms:
            if arm != RIVAL:
                cells = [str(self.difference(arm, metric)) for metric in METRICS]
                lines.append(f"| {arm} less {RIVAL} | | | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"
