"""The plots of a job's report. Each function draws one file; the parent is grey and the student coloured in all."""

import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reheatd.jobs.curves import CurvePoint, metric_names
from reheatd.jobs.report import Comparison, PositionFigures
from reheatd.measures import EntropyEstimate, PassRate

PARENT, STUDENT = "0.45", "tab:orange"
BAR = 0.38
"""Width of a bar in a pair of bars; pairs are 1 apart."""
CURVE_COLUMNS = 3
"""Number of curves beside each other."""


def plot_entropy_by_position(file: Path, comparison: Comparison) -> None:
    """Plots entropy by completion position with its interval, before and after."""
    sides = [[(at, at.entropy) for at in figures.positions] for figures in (comparison.parent, comparison.student)]
    figure, axes = _figure()
    _plot_positions(axes, sides)
    # The axis cuts intervals over two or three rollouts, which are far wider than the curves.
    axes.set_ylim(0, 1.5 * max(estimate.mean for side in sides for _, estimate in side) or 1.0)
    axes.set_ylabel("entropy, nats per token")
    _save(figure, file)


def plot_logprob_by_position(file: Path, comparison: Comparison) -> None:
    """Plots the mean log-probability of the sampled tokens by completion position, before and after."""
    sides = [
        [(at, _negative(at.surprisal)) for at in figures.positions]
        for figures in (comparison.parent, comparison.student)
    ]
    figure, axes = _figure()
    _plot_positions(axes, sides)
    axes.set_ylim(1.5 * min(estimate.mean for side in sides for _, estimate in side) or -1.0, 0)
    axes.set_ylabel("log-probability of the sampled token, nats")
    _save(figure, file)


def plot_layers(file: Path, comparison: Comparison) -> None:
    """Plots the CKA of the hidden states by layer."""
    figure, axes = _figure()
    values = [layer.cka for layer in comparison.layers]
    axes.plot([layer.layer for layer in comparison.layers], values, "o-", color=STUDENT, markersize=4)
    # Values near 1 are what a reheat is for, and differences between them would vanish on an axis from 0.
    axes.set_ylim(1 - 1.2 * max(1e-3, 1 - min(values)), 1 + 0.1 * max(1e-3, 1 - min(values)))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer (the last one after the final norm)")
    axes.set_ylabel("linear CKA, parent and student")
    _save(figure, file)


def plot_token_kl(file: Path, comparison: Comparison) -> None:
    """Plots how many tokens have which KL(parent || student)."""
    figure, axes = _figure()
    histogram = comparison.token_kl.histogram
    places = range(len(histogram.counts))
    axes.bar([place + 0.5 for place in places], histogram.counts, 1.0, color=STUDENT, edgecolor="white")
    axes.set_xticks(
        range(len(histogram.edges)), [f"{edge:.0e}" if edge else "0" for edge in histogram.edges], rotation=60
    )
    axes.set_xlabel(f"KL(parent || student), nats; mean {comparison.token_kl.mean:.4g}")
    axes.set_ylabel("tokens")
    _save(figure, file)


def plot_entropy_change(file: Path, comparison: Comparison) -> None:
    """Plots how many tokens have which change of entropy, on a logarithmic axis: most hardly change."""
    figure, axes = _figure()
    histogram = comparison.entropy_change.histogram
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=STUDENT)
    axes.axvline(0, color=PARENT, linewidth=1)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel(f"entropy of the student less the parent's, nats; mean {comparison.entropy_change.mean:+.4g}")
    axes.set_ylabel("tokens")
    _save(figure, file)


def plot_curves(file: Path, points: Sequence[CurvePoint]) -> None:
    """Plots every metric of the job by step, each in axes of its own."""
    names = metric_names(points)
    columns = min(CURVE_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4 * columns, 2.4 * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, name in zip_longest(grid.flat, names):
        if name is None:
            axes.set_axis_off()
            continue
        values = [(point.step, point.metrics[name]) for point in points if name in point.metrics]
        axes.plot([step for step, _ in values], [value for _, value in values], ".-", color=STUDENT, markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
    _save(figure, file)


def plot_top_k(file: Path, comparison: Comparison) -> None:
    """Plots the overlap of the candidate sets, and the probability that each policy gives to its own candidates."""
    figure, axes = _figure()
    places = range(len(comparison.top_k))
    third = 2 * BAR / 3
    for offset, label, colour, values in (
        (-third, "overlap of the two sets", "tab:blue", [top.overlap for top in comparison.top_k]),
        (0.0, "parent's mass on its own", PARENT, [top.parent_mass for top in comparison.top_k]),
        (third, "student's mass on its own", STUDENT, [top.student_mass for top in comparison.top_k]),
    ):
        axes.bar([place + offset for place in places], values, third, color=colour, label=label)
    _finish_bars(axes, [f"top {top.k}" for top in comparison.top_k], "share")
    _save(figure, file)


def plot_pass_at_k(file: Path, before: Sequence[PassRate], after: Sequence[PassRate]) -> None:
    """Plots pass@k with its interval, before and after."""
    figure, axes = _figure()
    for offset, label, colour, measured in ((-BAR / 2, "before", PARENT, before), (BAR / 2, "after", STUDENT, after)):
        values = [rate.value for rate in measured]
        below = [rate.value - rate.low for rate in measured]
        above = [rate.high - rate.value for rate in measured]
        places = [place + offset for place in range(len(values))]
        axes.bar(places, values, BAR, yerr=[below, above], capsize=3, color=colour, label=label)
    _finish_bars(axes, [f"pass@{rate.k}" for rate in before], "share of problems")
    _save(figure, file)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4))
    return figure, figure.subplots()


def _plot_positions(axes: Axes, sides: Sequence[Sequence[tuple[PositionFigures, EntropyEstimate]]]) -> None:
    """Plots one estimate per bucket of positions, before and after."""
    for (label, colour), side in zip((("before", PARENT), ("after", STUDENT)), sides, strict=True):
        middles = [(bucket.first + bucket.last) / 2 for bucket, _ in side]
        axes.plot(middles, [estimate.mean for _, estimate in side], color=colour, label=label)
        low, high = [estimate.low for _, estimate in side], [estimate.high for _, estimate in side]
        axes.fill_between(middles, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("completion position")
    axes.legend()


def _negative(estimate: EntropyEstimate) -> EntropyEstimate:
    return estimate.model_copy(update={"mean": -estimate.mean, "low": -estimate.high, "high": -estimate.low})


def _finish_bars(axes: Axes, names: Sequence[str], label: str) -> None:
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1)
    axes.set_ylabel(label)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3, frameon=False)


def _save(figure: Figure, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=120)
