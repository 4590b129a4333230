"""The half in which groups still vary, in three plots: every arm over its samples, accuracy over entropy, and
differences at the end."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.countdown.arms import ACTING, CONTINUED
from examples.countdown.outcome import Outcome
from examples.countdown.plan import SIGNAL
from examples.countdown.records import Curve
from examples.countdown.tables import LABELS

COLOURS = {
    CONTINUED: "0.35",
    "hot_1.2": "tab:orange",
    "hot_1.5": "tab:red",
    ACTING: "tab:green",
    "live_3x": "tab:olive",
    "frozen_1.5x": "tab:cyan",
    "fold_1.25": "tab:blue",
    "entropy_bonus": "tab:purple",
    "shrink": "tab:brown",
    "auto": "tab:pink",
}
COLLAPSE = "RL until collapse"


def plot_curves(file: Path, outcome: Outcome) -> None:
    """Plots pass@1, pass@16 and entropy over samples: the mean over seeds, with the range of the seeds."""
    figure = Figure(figsize=(13, 4.2))
    for axes, metric in zip(figure.subplots(1, 3), ("pass1", "pass16", "entropy"), strict=True):
        for label, colour, start, curves in _lines(outcome):
            _line(axes, curves, start, metric, colour, label)
        axes.set_xlabel("completions sampled")
        axes.set_ylabel(LABELS[metric])
    figure.axes[-1].set_ylim(bottom=0)
    figure.axes[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def _lines(outcome: Outcome) -> list[tuple[str, str, int, list[Curve]]]:
    """Label, colour, completions before it and curves of the collapse and of every arm."""
    scenario = outcome.plan.scenarios[SIGNAL]
    collapses = outcome.collapses(scenario.collapse)
    before = collapses[0].points[-1].samples + outcome.decisions(SIGNAL)[0].curve.points[-1].samples
    return [
        (COLLAPSE, "0.7", 0, collapses),
        *((arm, COLOURS[arm], before, outcome.arm(SIGNAL, arm)) for arm in scenario.arms),
    ]


def _line(axes: Axes, curves: Sequence[Curve], start: int, metric: str, colour: str, label: str) -> None:
    columns = list(zip(*(curve.points for curve in curves), strict=False))
    samples = [start + statistics.fmean(point.samples for point in column) for column in columns]
    values = [[getattr(point, metric) for point in column] for column in columns]
    axes.plot(samples, [statistics.fmean(column) for column in values], color=colour, label=label)
    axes.fill_between(
        samples, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, linewidth=0
    )


def plot_frontier(file: Path, outcome: Outcome) -> None:
    """Plots pass@1 and pass@16 over entropy: means over seeds, with the end of every arm marked."""
    figure = Figure(figsize=(11, 4.2))
    for axes, metric in zip(figure.subplots(1, 2), ("pass1", "pass16"), strict=True):
        for label, colour, _, curves in _lines(outcome):
            columns = list(zip(*(curve.points for curve in curves), strict=False))
            entropies = [statistics.fmean(point.entropy for point in column) for column in columns]
            values = [statistics.fmean(getattr(point, metric) for point in column) for column in columns]
            axes.plot(entropies, values, ".-", color=colour, label=label, linewidth=1)
            axes.plot(entropies[-1], values[-1], "D", color=colour)
        axes.invert_xaxis()
        axes.set_xlabel("entropy, nats per token (RL moves to the right)")
        axes.set_ylabel(LABELS[metric])
    figure.axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def plot_differences(file: Path, outcome: Outcome) -> None:
    """Plots the differences to going on at the end of the budget: every seed, and the mean."""
    arms = [arm for arm in outcome.plan.scenarios[SIGNAL].arms if arm != CONTINUED]
    figure = Figure(figsize=(11, 3.2))
    for axes, metric in zip(figure.subplots(1, 3), ("pass1", "pass16", "entropy"), strict=True):
        for place, arm in enumerate(arms):
            differences = outcome.differences(SIGNAL, arm, metric)
            axes.plot(differences, [place] * len(differences), "o", color=COLOURS[arm], alpha=0.35, markersize=4)
            axes.plot([statistics.fmean(differences)], [place], "D", color=COLOURS[arm])
        axes.axvline(0, color="0.35", linewidth=1)
        axes.set_yticks(range(len(arms)), arms)
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.set_xlabel(LABELS[metric])
    figure.suptitle("at the end of the budget, less what going on ends with", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
