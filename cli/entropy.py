"""`reheatd entropy`: the entropy series of the served policy, plotted in the terminal."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from cli import render
from cli.client import DaemonClient
from cli.options import DEFAULT_URL, JsonOption, UrlOption
from reheatd.adapters.lineage import version_name
from reheatd.entropy.series import Window

PLOT_ROWS = 14
AXIS_COLUMNS = 7
MOST_COLUMNS_PER_WINDOW = 4


def entropy(
    last: Annotated[int, typer.Option(help="Windows to show.", min=1)] = 60,
    measure: Annotated[bool, typer.Option("--measure", help="Ask for a window now; it is there in a moment.")] = False,
    url: UrlOption = DEFAULT_URL,
    json_output: JsonOption = False,
) -> None:
    """Plot the served policy's entropy with its confidence intervals, baseline and collapse threshold."""
    client = DaemonClient(url)
    if measure:
        client.post("/reheatd/v1/entropy/measure")
    series = client.get("/reheatd/v1/entropy", last=last)
    if json_output:
        render.print_json(series)
        return
    windows = [Window.model_validate(window) for window in series["windows"]]
    if not windows:
        render.console.print("no window measured yet; `reheatd entropy --measure` asks for one")
        return
    threshold = series.get("threshold")
    newest = windows[-1]
    for line in plot(windows, threshold=threshold, columns=min(render.console.width, 110)):
        render.console.print(line)
    summary = (
        f"{version_name(newest.version)}  {render.verdict(newest.verdict)}  {render.entropy(newest.estimate)} nats"
    )
    lines = f"[green]──[/] baseline {newest.baseline:.3f}"
    if threshold is not None:
        lines += f"  [red]╌╌[/] collapse threshold {threshold:.3f}"
    render.console.print(f"{summary} per token, {newest.ratio:.0%} of the baseline, {render.age(newest.time)}\n{lines}")


def plot(windows: Sequence[Window], *, threshold: float | None, columns: int, rows: int = PLOT_ROWS) -> list[Text]:
    """Mean (a dot, coloured by verdict) and confidence interval (a bar) of each window, the newest on the right.

    Args:
        windows: Oldest first; those that do not fit are left out.
        threshold: Collapse threshold, nats per token.
        columns: Width of the whole plot, characters.
        rows: Height of the plotting area, lines.
    """
    area = columns - AXIS_COLUMNS
    windows = windows[-area:]
    step = max(1, min(MOST_COLUMNS_PER_WINDOW, area // len(windows)))
    baseline = windows[-1].baseline
    top = 1.05 * max([baseline, *(window.estimate.high for window in windows)])

    def row_of(value: float) -> int:
        return min(rows - 1, max(0, rows - 1 - int(value / top * rows)))

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
    oldest = f"{render.duration(time.time() - windows[0].time)} ago"
    lines.append(Text("      └" + "─" * width, style="dim"))
    lines.append(Text("       " + "".join(versions).rstrip(), style="cyan"))
    lines.append(Text("       " + oldest, style="dim"))
    return lines
