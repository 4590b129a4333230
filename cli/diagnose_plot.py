"""Plots what a trainer logged of a run, with the thresholds of its diagnosis."""

from pathlib import Path
from typing import TYPE_CHECKING

from reheatd.errors import BadInputError
from reheatd.extras import require_diagnose_extra
from reheatd.runlog.diagnosis import Diagnosis
from reheatd.runlog.metric_names import Signal
from reheatd.runlog.signals import Signals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARE_LABELS: dict[Signal, str] = {"zero_variance": "no variance", "all_fail": "all fail", "all_pass": "all pass"}
PANELS: dict[str, tuple[Signal, ...]] = {
    "reward": ("reward",),
    "gradient norm": ("grad_norm",),
    "share of groups": ("zero_variance", "all_fail", "all_pass"),
}


def plot_run(file: Path, signals: Signals, diagnosis: Diagnosis) -> None:
    """Writes the plot as a PNG: the entropy above, and below it the other signals that were logged.

    Raises:
        MissingExtraError: matplotlib is not installed.
        BadInputError: The file cannot be written.
    """
    require_diagnose_extra("matplotlib", "--plot")
    from matplotlib.figure import Figure

    logged = {label: panel for label, panel in PANELS.items() if any(signals.get(signal) for signal in panel)}
    figure = Figure(figsize=(10, 4 + 1.6 * len(logged)))
    ratios = [3.0] + [1.4] * len(logged)
    top, *others = figure.subplots(1 + len(logged), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    _plot_entropy(top, signals, diagnosis)
    for axes, (label, panel) in zip(others, logged.items(), strict=True):
        for signal in panel:
            if values := signals.get(signal):
                axes.plot(list(values), list(values.values()), linewidth=1, label=SHARE_LABELS.get(signal))
        axes.set_ylabel(label)
        if label == "share of groups":
            axes.set_ylim(-0.02, 1.02)
            axes.legend(fontsize=8)
    for axes in (top, *others):
        if diagnosis.since_step is not None:
            axes.axvline(diagnosis.since_step, color="black", linewidth=0.8, alpha=0.5)
    (others or [top])[-1].set_xlabel("step")
    since = "" if diagnosis.since_step is None else f" since step {diagnosis.since_step}"
    figure.suptitle(f"{diagnosis.verdict.replace('_', ' ')}{since}")
    figure.tight_layout()
    try:
        figure.savefig(file, dpi=130)
    except OSError as error:
        raise BadInputError(f"--plot {file} cannot be written: {error.strerror}", param="plot") from error


def _plot_entropy(axes: "Axes", signals: Signals, diagnosis: Diagnosis) -> None:
    from matplotlib.ticker import LogLocator

    values = signals.get("entropy")
    axes.plot(list(values), list(values.values()), color="tab:blue", linewidth=1, label="entropy")
    axes.axhline(diagnosis.baseline_nats, color="grey", linewidth=1, label="baseline")
    if diagnosis.stable_nats is not None:
        axes.axhline(diagnosis.stable_nats, color="tab:green", linestyle="--", linewidth=1, label="stable phase")
    axes.axhline(diagnosis.collapsed_below_nats, color="tab:red", linestyle="--", linewidth=1, label="collapsed below")
    limit = diagnosis.too_hot_above_nats
    if limit is not None and diagnosis.entropy_nats > limit / 2:
        axes.axhline(limit, color="tab:orange", linestyle="--", linewidth=1, label="too hot above")
    axes.set_ylabel("entropy, nats per token")
    # A healthy run falls to an eighth of where it began, so what matters lies close above 0.
    if min(values.values()) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.legend(loc="upper right", fontsize=8, ncols=2)
