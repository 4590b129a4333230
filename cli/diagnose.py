"""`reheatd diagnose`: says from a trainer's log whether a run is healthy, collapsed, too hot or stalled."""

from pathlib import Path
from typing import Annotated, cast

import typer
from rich.markup import escape

from cli import render
from cli.diagnose_plot import plot_run
from cli.options import ConfigOption, JsonOption
from reheatd.config import load_settings
from reheatd.errors import BadInputError
from reheatd.runlog.diagnosis import Diagnosis
from reheatd.runlog.diagnosis import diagnose as judge
from reheatd.runlog.find import read_run
from reheatd.runlog.metric_names import SIGNALS, Signal
from reheatd.runlog.signals import pick_signals

NOT_HEALTHY = 3
"""Exit code of a run that is not healthy."""

LABELS: dict[Signal, str] = {
    "entropy": "entropy, nats per token",
    "reward": "reward",
    "grad_norm": "gradient norm",
    "zero_variance": "groups without variance",
    "all_fail": "groups that all fail",
    "all_pass": "groups that all pass",
    "pass_at_k": "pass@k, held out",
    "completion_length": "completion length, tokens",
}
STYLE = {"healthy": "green", "collapsed": "bold red", "too_hot": "bold magenta", "stalled": "bold yellow"}
SHARES = ("zero_variance", "all_fail", "all_pass", "pass_at_k")


def diagnose(
    run: Annotated[
        Path,
        typer.Argument(
            help="Log of a run or its folder: TensorBoard, W&B (*.wandb), trainer_state.json, JSON lines or CSV."
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(help=f"SIGNAL=NAME: the name of a metric in the log, for {', '.join(SIGNALS)}. May be repeated."),
    ] = None,
    baseline_nats: Annotated[
        float | None,
        typer.Option(help="Entropy of the base policy, nats per token; default: the run's first logged entropies."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a plot of the run to this PNG file.")] = None,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say whether a run is healthy, collapsed, too hot or stalled, from what its trainer logged.

    Knows the metric names of TRL, verl, prime-rl, SkyRL and OpenRLHF. Needs no daemon and no GPU. Exits with 0 if the
    run is healthy, with 3 if it is not, and with 2 if the log cannot be judged.
    """
    if baseline_nats is not None and not 0 < baseline_nats < float("inf"):
        raise BadInputError(
            f"--baseline-nats {baseline_nats:g} is no entropy; give one above 0, e.g. 0.8", param="baseline_nats"
        )
    if plot is not None and plot.suffix.lower() != ".png":
        raise BadInputError(f"--plot {plot} is not a PNG file; name one that ends with .png", param="plot")
    overrides = _overrides(metric or [])
    settings = load_settings(config).entropy
    signals = pick_signals(read_run(run, overrides), overrides)
    diagnosis = judge(signals, settings, baseline_nats)
    if plot is not None:
        plot_run(plot, signals, diagnosis)
    if json_output:
        render.print_json(diagnosis.model_dump(mode="json"))
    else:
        _print(diagnosis, plot)
    if diagnosis.verdict != "healthy":
        raise typer.Exit(NOT_HEALTHY)


def _overrides(given: list[str]) -> dict[Signal, str]:
    overrides: dict[Signal, str] = {}
    for pair in given:
        signal, separator, name = pair.partition("=")
        if signal not in SIGNALS or not separator or not name:
            raise BadInputError(
                f"--metric {pair} is not SIGNAL=NAME; SIGNAL is one of {', '.join(SIGNALS)}", param="metric"
            )
        overrides[cast(Signal, signal)] = name
    return overrides


def _print(diagnosis: Diagnosis, plot: Path | None) -> None:
    since = "" if diagnosis.since_step is None else f" since step {diagnosis.since_step}"
    print_ = render.console.print
    verdict = f"[{STYLE[diagnosis.verdict]}]{diagnosis.verdict.replace('_', ' ')}[/]"
    print_(f"{verdict}{since}. {escape(diagnosis.reason)}")
    print_(escape(diagnosis.advice))
    origin = "given" if diagnosis.baseline_given else "the first logged entropies"
    facts = render.facts()
    facts.add_row("steps", f"{diagnosis.first_step} to {diagnosis.last_step}")
    facts.add_row("names", diagnosis.trainer or "given")
    facts.add_row("baseline", f"{diagnosis.baseline_nats:.3f} nats per token ({origin})")
    if diagnosis.stable_nats is not None:
        facts.add_row("stable phase", f"{diagnosis.stable_nats:.3f} nats per token")
    limits = f"collapsed below {diagnosis.collapsed_below_nats:.3f}, warning below {diagnosis.warning_below_nats:.3f}"
    if diagnosis.too_hot_above_nats is not None:
        limits += f", too hot above {diagnosis.too_hot_above_nats:.3f}"
    facts.add_row("thresholds", limits)
    print_(facts)
    table = render.table("signal", "#first", "#last", "metric")
    for signal, figures in diagnosis.signals.items():
        shown = (_figure(signal, value) for value in (figures.first, figures.last))
        table.add_row(LABELS[signal], *shown, escape(figures.metric))
    print_(table)
    for note in diagnosis.notes:
        print_(f"[yellow]note[/] {escape(note)}")
    if plot is not None:
        print_(f"plot: {escape(str(plot))}")


def _figure(signal: Signal, value: float) -> str:
    if signal in SHARES:
        return f"{value:.0%}"
    return f"{value:,.0f}" if signal == "completion_length" else f"{value:.3g}"
