"""`reheatd entropy`: plots the served policy's entropy series in the terminal, plans windows and replays recordings."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from rich.text import Text

from cli import render
from cli.client import DaemonClient
from cli.options import DEFAULT_URL, ConfigOption, UrlOption
from reheatd.config import load_settings
from reheatd.engine.client import EngineClient
from reheatd.entropy.detector import CollapseDetector, Verdict
from reheatd.entropy.plan import PlannedWindow, plan_windows
from reheatd.entropy.probes import load_probes
from reheatd.entropy.replay import Replayed, read_recording
from reheatd.entropy.replay import replay as replay_windows
from reheatd.entropy.windows import LiveWindow
from reheatd.errors import ConflictError
from reheatd.measures import EntropyEstimate, PositionMean
from reheatd.names import ALIAS_NAME, version_name
from reheatd.tap.wire import TapSource

app = typer.Typer(invoke_without_command=True)

PLOT_ROWS = 14
AXIS_COLUMNS = 7
MOST_COLUMNS_PER_WINDOW = 4


class Plotted(Protocol):
    """A window that can be plotted, in nats per token."""

    @property
    def version(self) -> int: ...
    @property
    def estimate(self) -> EntropyEstimate: ...
    @property
    def baseline(self) -> float: ...
    @property
    def verdict(self) -> Verdict: ...


@app.callback()
@render.json_or_text
def entropy(
    context: typer.Context,
    last: Annotated[int, typer.Option(help="Windows to show.", min=1)] = 60,
    measure: Annotated[bool, typer.Option("--measure", help="Measure a window first.")] = False,
    url: UrlOption = DEFAULT_URL,
) -> render.JsonThenText:
    """Plot the served policy's entropy with its confidence intervals, baseline and collapse threshold."""
    if context.invoked_subcommand is not None:
        return
    client = DaemonClient(url)
    if measure:
        client.measure()
    series = client.entropy(last=last)
    yield series.model_dump(mode="json")
    windows = series.windows
    if not windows:
        render.console.print("no window has been measured yet; `reheatd entropy --measure` measures one")
        return
    threshold = series.threshold
    newest = windows[-1]
    for line in plot(windows, threshold=threshold, columns=min(render.console.width, 110)):
        render.console.print(line)
    render.console.print(Text(f"       {render.age(windows[0].time)}", style="dim"))
    summary = (
        f"{version_name(newest.version)}  {render.verdict(newest.verdict)}  {render.entropy(newest.estimate)} nats"
    )
    lines = f"[green]──[/] baseline {newest.baseline:.3f}"
    if threshold is not None:
        lines += f"  [red]╌╌[/] collapse threshold {threshold:.3f}"
    render.console.print(f"{summary} per token, {newest.ratio:.0%} of the baseline, {render.age(newest.time)}\n{lines}")
    for line in render.learning(series.learning):
        render.console.print(line)
    if newest.by_position:
        render.console.print(f"by position  {_positions(newest.by_position)}")
    if series.sources:
        render.console.print("\nmeasured elsewhere, on other prompts, so with another level")
        table = render.table("source", "version", "by", "#entropy", "#tokens", "#age")
        for window in series.sources:
            table.add_row(
                *(window.source, _version(window), window.measured_by, render.entropy(window.estimate)),
                *(str(window.estimate.tokens), render.age(window.time)),
            )
        render.console.print(table)


@app.command()
@render.json_or_text
def plan(
    width: Annotated[float, typer.Option(help="Wanted width of the confidence interval, nats per token.")],
    model: Annotated[str, typer.Option(help="Model to measure.")] = ALIAS_NAME,
    config: ConfigOption = None,
    url: UrlOption = DEFAULT_URL,
) -> render.JsonThenText:
    """Say how many probes and top logprobs an interval of a wanted width takes, and what that costs.

    This samples a window for each k through the daemon, with the probes of the configuration.
    """
    client = DaemonClient(url)
    client.status()  # fails with advice if there is no daemon
    configured = load_settings(config)
    settings = configured.entropy
    probes = load_probes(configured.task, settings)
    max_tokens = settings.max_tokens if settings.max_tokens != "auto" else _found_length(client)

    async def measure() -> list[PlannedWindow]:
        async with EngineClient(url) as engine:
            return await plan_windows(
                engine,
                model,
                probes,
                width=width,
                max_tokens=max_tokens,
                confidence=settings.confidence,
                seed=secrets.randbelow(2**32),
            )

    planned = asyncio.run(measure())
    yield [asdict(window) for window in planned]
    table = render.table("top_k", "#width now", "#probes", "#tokens", "#time", "#share of the engine")
    for window in planned:
        share = window.seconds / settings.pause_after(window.seconds)
        table.add_row(
            str(window.top_k) if window.top_k else "0 (Monte Carlo)",
            *(f"{window.width_now:.3f}", f"{window.probes:,}", f"{window.tokens:,}", render.duration(window.seconds)),
            f"{share:.2%}, every {render.duration(settings.pause_after(window.seconds))}",
        )
    render.console.print(
        f"for an interval {width:g} nats wide at {settings.confidence:.0%}, {len(probes)} probes measured"
    )
    render.console.print(table)
    render.console.print(
        "Set entropy.probe_count and entropy.top_k. Probes are prompts of the task, so more of them are fewer to train "
        "on; a file of probes in entropy.probes is not."
    )


def _found_length(client: DaemonClient) -> int:
    """The longest answer that the daemon has found."""
    found = client.entropy(last=1).max_tokens
    if found is None:
        raise ConflictError(
            "the daemon has not found the length of answers yet; `reheatd entropy --measure` makes it measure"
        )
    return found


@app.command()
@render.json_or_text
def live(
    last: Annotated[int, typer.Option(help="Windows to show.", min=1)] = 10,
    source: Annotated[TapSource | None, typer.Option(help="Show only windows of this source.")] = None,
    url: UrlOption = DEFAULT_URL,
) -> render.JsonThenText:
    """Show the entropy of the tokens that the engine decoded, for clients, probes and jobs."""
    view = DaemonClient(url).live(last=last, source=source)
    yield view.model_dump(mode="json")
    windows = view.windows
    if not windows:
        render.console.print(
            "nothing has been measured yet; if entropy.tap is on, a window closes every entropy.interval_s seconds"
        )
        return
    table = render.table("version", "source", "by", "#entropy", "#tokens", "#sequences", "by position", "#age")
    for window in windows:
        table.add_row(
            *(_version(window), window.source, window.measured_by, render.entropy(window.estimate)),
            *(str(window.estimate.tokens), str(window.estimate.sequences), _positions(window.by_position)),
            render.age(window.time),
        )
    render.console.print(table)


def _version(window: LiveWindow) -> str:
    """The version that was sampled, e.g. `policy-v3`, or `rl-4f2a, step 7`."""
    return window.version if window.step is None else f"{window.version}, step {window.step}"


def _positions(means: Sequence[PositionMean]) -> str:
    """Entropy by the position in the answer at which each bin begins."""
    return "  ".join(f"[dim]{each.position}:[/] {each.mean:.2f}" for each in means)


@app.command()
@render.json_or_text
def replay(
    file: Annotated[Path, typer.Argument(help="Output of `reheatd entropy --json`, or one window per line.")],
    collapse_ratio: Annotated[float | None, typer.Option(help="Replaces the configured one.")] = None,
    collapse_nats: Annotated[float | None, typer.Option(help="Replaces the configured one.")] = None,
    collapse_stable_share: Annotated[float | None, typer.Option(help="Replaces the configured one.")] = None,
    margin: Annotated[float | None, typer.Option(help="Replaces the configured one.")] = None,
    too_hot_ratio: Annotated[float | None, typer.Option(help="Replaces the configured one.")] = None,
    patience: Annotated[int | None, typer.Option(help="Replaces the configured one.")] = None,
    baseline: Annotated[float | None, typer.Option(help="Replaces the recorded one, in nats per token.")] = None,
    config: ConfigOption = None,
) -> render.JsonThenText:
    """Run recorded windows through a configuration and show its verdicts."""
    given = {
        "collapse_ratio": collapse_ratio,
        "collapse_nats": collapse_nats,
        "collapse_stable_share": collapse_stable_share,
        "margin": margin,
        "too_hot_ratio": too_hot_ratio,
        "patience": patience,
    }
    overrides = {"entropy": {name: value for name, value in given.items() if value is not None}}
    settings = load_settings(config, overrides).entropy
    windows = replay_windows(read_recording(file, baseline), CollapseDetector(settings))
    yield {"windows": [_as_json(window) for window in windows]}
    for line in plot(windows, threshold=windows[-1].threshold, columns=min(render.console.width, 110)):
        render.console.print(line)
    table = render.table("window", "time", "version", "verdict", "#entropy", "#of the baseline")
    for index, window in enumerate(windows):
        before = windows[index - 1] if index else None
        if before is None or (before.verdict, before.version) != (window.verdict, window.version):
            moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(window.time)) if window.time else render.NOTHING
            table.add_row(
                *(str(index + 1), moment, version_name(window.version), render.verdict(window.verdict)),
                *(render.entropy(window.estimate), f"{window.ratio:.0%}"),
            )
    render.console.print(table)
    counts = ", ".join(
        f"{sum(window.verdict == verdict for window in windows)} {render.verdict(verdict)}"
        for verdict in render.VERDICT_STYLE
    )
    render.console.print(f"{len(windows)} windows: {counts}")


def _as_json(window: Replayed) -> dict[str, Any]:
    return {
        "time": window.time,
        "version": window.version,
        "mean": window.estimate.mean,
        "ratio": window.ratio,
        "verdict": window.verdict,
    }


def plot(windows: Sequence[Plotted], *, threshold: float | None, columns: int, rows: int = PLOT_ROWS) -> list[Text]:
    """Plots the mean of each window as a dot, coloured by verdict, and its interval as a bar, the newest on the right.

    Args:
        windows: The windows, oldest first; the oldest ones that do not fit are left out.
        threshold: Collapse threshold, in nats per token.
        columns: Width of the whole plot, in characters.
        rows: Height of the plotting area, in lines.
    """
    area = max(1, columns - AXIS_COLUMNS)
    windows = windows[-area:]
    step = max(1, min(MOST_COLUMNS_PER_WINDOW, area // len(windows)))
    baseline = windows[-1].baseline
    top = 1.05 * max([baseline, *(window.estimate.high for window in windows)])

    def row_of(value: float) -> int:
        return min(rows - 1, max(0, rows - 1 - int(min(1.0, max(0.0, value / top)) * rows)))

    width = step * len(windows)
    cells = [[(" ", "")] * width for _ in range(rows)]
    cells[row_of(baseline)] = [("─", "green dim")] * width
    if threshold is not None:
        cells[row_of(threshold)] = [("╌", "red dim")] * width
    versions = [" "] * (width + len(version_name(windows[-1].version)))
    for index, window in enumerate(windows):
        column = index * step + step // 2
        for row in range(row_of(window.estimate.high), row_of(window.estimate.low) + 1):
            cells[row][column] = ("│", "dim")
        cells[row_of(window.estimate.mean)][column] = ("●", render.VERDICT_STYLE[window.verdict])
        if index == 0 or windows[index - 1].version != window.version:
            label = f"v{window.version}"
            versions[column : column + len(label)] = label
    lines = []
    for row, line in enumerate(cells):
        label = f"{top * (rows - row - 0.5) / rows:5.2f} ┤" if row % 3 == 1 else "      │"
        text = Text(label, style="dim")
        for character, style in line:
            text.append(character, style=style)
        lines.append(text)
    lines.append(Text("      └" + "─" * width, style="dim"))
    lines.append(Text("       " + "".join(versions).rstrip(), style="cyan"))
    return lines
