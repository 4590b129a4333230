"""The plots of a job's report. Each function draws one file; the parent is grey and the student coloured in all."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reheatd.jobs.report import Comparison, PositionEntropy
from reheatd.measures import PassRate

PARENT, STUDENT = "0.45", "tab:orange"
BAR = 0.38
"""Width of a bar in a pair of bars; pairs are 1 apart."""


def plot_positions(file: Path, comparison: Comparison) -> None:
    """Plots entropy by completion position with its interval, before and after."""
    figure, axes = _figure()
    sides = (("before", PARENT, comparison.parent_positions), ("after", STUDENT, comparison.student_positions))
    for label, colour, positions in sides:
        middles = [(bucket.first + bucket.last) / 2 for bucket in positions]
        axes.plot(middles, [bucket.estimate.mean for bucket in positions], color=colour, label=label)
        low, high = ([getattr(b.estimate, side) for b in positions] for side in ("low", "high"))
        axes.fill_between(middles, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_ylim(0, _top([*comparison.parent_positions, *comparison.student_positions]))
    axes.set_xlabel("completion position")
    axes.set_ylabel("entropy, nats per token")
    axes.legend()
    _save(figure, file)


def plot_layers(file: Path, comparison: Comparison) -> None:
    """Plots the similarity of hidden states by layer."""
    figure, axes = _figure()
    layers = [layer.layer for layer in comparison.layers]
    axes.plot(layers, [layer.mean for layer in comparison.layers], "o-", color=STUDENT, markersize=4, label="mean")
    axes.plot(layers, [layer.min for layer in comparison.layers], "--", color=PARENT, label="least similar state")
    axes.set_ylim(min(0.0, *(layer.min for layer in comparison.layers)), 1.02)
    axes.set_xlabel("layer (the last one after the final norm)")
    axes.set_ylabel("cosine similarity, parent and student")
    axes.legend()
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


def _finish_bars(axes: Axes, names: Sequence[str], label: str) -> None:
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1)
    axes.set_ylabel(label)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3, frameon=False)


def _save(figure: Figure, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def _top(positions: Sequence[PositionEntropy]) -> float:
    """Upper end of the axis. It cuts intervals over two or three rollouts, which are far wider than the curves."""
    return 1.5 * max(bucket.estimate.mean for bucket in positions)
