"""The experiment in three plots: every arm over its samples, pass@1 over entropy, and differences at the end."""

import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.countdown.arms import Measured
from examples.countdown.outcome import LABELS, RIVAL, Interval, Outcome

COLOURS = {"continued": "0.35", "hot": "tab:red", "reheat": "tab:green", "fold": "tab:blue"}


def plot_curves(file: Path, outcome: Outcome) -> None:
    """Plots pass@1, pass@16 and entropy over samples: the mean over seeds, with the range of the seeds."""
    figure = Figure(figsize=(13, 4.2))
    for axes, metric in zip(figure.subplots(1, 3), ("pass1", "pass16", "entropy"), strict=True):
        _line(axes, outcome.collapses, metric, "0.7", "RL until collapse")
        for arm, by_seed in outcome.arms.items():
            _line(axes, by_seed, metric, COLOURS[arm], arm)
        axes.set_xlabel("completions sampled")
        axes.set_ylabel(LABELS[metric])
    figure.axes[-1].set_ylim(bottom=0)
    figure.axes[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def _line(axes: Axes, by_seed: list[list[Measured]], metric: str, colour: str, label: str) -> None:
    columns = list(zip(*by_seed, strict=True))
    samples = [statistics.fmean(point.samples for point in column) for column in columns]
    values = [[getattr(point, metric) for point in column] for column in columns]
    axes.plot(samples, [statistics.fmean(column) for column in values], color=colour, label=label)
    axes.fill_between(
        samples, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, linewidth=0
    )


def plot_frontier(file: Path, outcome: Outcome) -> None:
    """Plots pass@1 and pass@16 over entropy: means over seeds, with the end of every arm marked."""
    figure = Figure(figsize=(11, 4.2))
    for axes, metric in zip(figure.subplots(1, 2), ("pass1", "pass16"), strict=True):
        for label, colour, by_seed in (
            ("RL until collapse", "0.7", outcome.collapses),
            *((arm, COLOURS[arm], by_seed) for arm, by_seed in outcome.arms.items()),
        ):
            columns = list(zip(*by_seed, strict=True))
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
    """Plots the differences to continued RL at the end of the budget: every seed, the mean and its 95% interval."""
    arms = [arm for arm in outcome.arms if arm != RIVAL]
    figure = Figure(figsize=(11, 3.2))
    for axes, metric in zip(figure.subplots(1, 3), ("pass1", "pass16", "entropy"), strict=True):
        for place, arm in enumerate(arms):
            rivals = outcome.last(RIVAL, metric)
            seeds = [value - rival for value, rival in zip(outcome.last(arm, metric), rivals, strict=True)]
            interval: Interval = outcome.difference(arm, metric)
            axes.plot(seeds, [place] * len(seeds), "o", color=COLOURS[arm], alpha=0.35, markersize=4)
            error = [[interval.mean - interval.low], [interval.high - interval.mean]]
            axes.errorbar([interval.mean], [place], xerr=error, fmt="D", color=COLOURS[arm], capsize=4)
        axes.axvline(0, color="0.35", linewidth=1)
        axes.set_yticks(range(len(arms)), arms)
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.set_xlabel(f"{LABELS[metric]} less {RIVAL} RL's")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
