"""Printing for all commands: compact tables for people, and JSON for programs."""

import functools
import inspect
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli.options import JsonOption
from reheatd.api.schemas import LearningView
from reheatd.client.waiting import asks
from reheatd.jobs.contracts import Job, JobStatus
from reheatd.jobs.curves import CurvePoint
from reheatd.jobs.rollouts import RolloutRow
from reheatd.measures import Accuracy, EntropyEstimate, PassRate
from reheatd.signal import Reach
from reheatd.text import duration as duration

P = ParamSpec("P")
JsonThenText = Iterator[Any]
"""Return value of a command that gets its flag from `json_or_text`."""

console = Console(highlight=False)

STATUS_STYLE = {
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "red",
    JobStatus.REJECTED: "red",
    JobStatus.CANCELLED: "dim",
    JobStatus.AWAITING_APPROVAL: "yellow",
}
OUTCOME_STYLE = {"passed": "green", "failed": "red", "no_evidence": "yellow"}
VERDICT_STYLE = {
    "ok": "green",
    "warning": "yellow",
    "collapsed": "bold red",
    "too_hot": "bold magenta",
    "stalled": "bold yellow",
}
NOTHING = "[dim]-[/]"
LEVELS = "▁▂▃▄▅▆▇█"
COLUMN_GAP = 2
"""Spaces between two columns of a table."""


def print_json(value: Any) -> None:
    print(json.dumps(value))


def json_or_text(command: Callable[P, JsonThenText]) -> Callable[..., None]:
    """Gives a command the flag `--json`.

    Args:
        command: Yields the value that `--json` prints. Without the flag, it then continues, and prints for people.
    """

    @functools.wraps(command)
    def with_flag(*args: Any, json_output: bool = False, **options: Any) -> None:
        for value in command(*args, **options):
            if json_output:
                print_json(value)
                return

    # typer reads both the signature and the annotations.
    flag = inspect.Parameter("json_output", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption)
    signature = inspect.signature(command)
    setattr(with_flag, "__signature__", signature.replace(parameters=[*signature.parameters.values(), flag]))  # noqa: B010
    with_flag.__annotations__ = {**command.__annotations__, "json_output": JsonOption, "return": None}
    return with_flag


def table(*columns: str) -> Table:
    """A table without a frame. Columns whose name starts with `#` are aligned to the right.

    The first column names the row, so a narrow terminal never cuts it short.
    """
    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, COLUMN_GAP, 0, 0))
    for index, column in enumerate(columns):
        justify = "right" if column.startswith("#") else "left"
        made.add_column(column.removeprefix("#"), justify=justify, no_wrap=index == 0)
    return made


def facts() -> Table:
    """A two-column list of names and values."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    return grid


def sparkline(values: Sequence[float]) -> str:
    """Values as a line of columns, as high as each is against the largest."""
    top = max(values)
    if top <= 0:
        return LEVELS[0] * len(values)
    return "".join(LEVELS[min(len(LEVELS) - 1, max(0, int(value / top * len(LEVELS))))] for value in values)


def entropy(estimate: EntropyEstimate | None) -> str:
    """An estimate's mean and interval, in nats per token."""
    return NOTHING if estimate is None else f"{estimate.mean:.3f} [dim]\\[{estimate.low:.3f}, {estimate.high:.3f}][/]"


def share(value: Accuracy | PassRate | None) -> str:
    return NOTHING if value is None else f"{value.value:.0%} [dim]\\[{value.low:.0%}, {value.high:.0%}][/]"


def reach(found: Reach) -> str:
    """What the base solves and the policy does not, and what it cost to know that."""
    return f"{found} [dim]({found.samples} answers of the base)[/]"


def learning(view: LearningView | None) -> list[str]:
    """Lines that say what the rollouts of RL teach, and what is worth knowing of it; none if nothing is known."""
    if view is None:
        return []
    figures = (
        f"{view.varied:.1f} of {view.groups:.1f} groups vary per step, {view.all_fail:.1f} fail and "
        f"{view.all_pass:.1f} pass as a whole"
    )
    trends = [f"{name} {trend.first:.3g} -> {trend.last:.3g}" for name, trend in view.trends.items()]
    steps = f"[dim]({view.steps} steps of RL)[/]"
    return [", ".join([figures, *trends]) + f" {steps}", *(f"[yellow]{escape(note)}[/]" for note in view.notes)]


def verdict(name: str | None) -> str:
    return NOTHING if name is None else f"[{VERDICT_STYLE.get(name, 'default')}]{name}[/]"


def job_status(status: JobStatus) -> str:
    return f"[{STATUS_STYLE.get(status, 'cyan')}]{status.value}[/]"


def outcome(name: str) -> str:
    """The outcome of a gate."""
    return f"[{OUTCOME_STYLE[name]}]{name.replace('_', ' ')}[/]"


def job_progress(job: Job) -> str:
    """A job's progress, e.g. `step 4 of 30, sampling 12 of 32`, or what it waits for; empty once the job has ended."""
    if job.status.is_final:
        return ""
    if asks(job):
        return "no evidence: " + ", ".join(g.name for g in job.gates if g.outcome == "no_evidence")
    step = f"step {job.step} of {job.steps}" if job.steps else ""
    phase = f"{job.phase} {job.done} of {job.of}" if job.phase and job.of else job.phase
    return ", ".join(part for part in (step, phase) if part)


def print_curves(points: Sequence[CurvePoint], names: Sequence[str]) -> None:
    """Prints a table of metrics by step, with as many columns as fit, and then the names of the others."""
    columns = {name: [_number(point.metrics.get(name)) for point in points] for name in names}
    steps = [str(point.step) for point in points]
    room = console.width - max(map(len, ["step", *steps]))
    shown: list[str] = []
    for name, cells in columns.items():
        room -= COLUMN_GAP + max(map(len, [name, *cells]))
        if room < 0 and shown:
            break
        shown.append(name)
    rows = table("step", *(f"#{name}" for name in shown))
    for step, *cells in zip(steps, *(columns[name] for name in shown), strict=True):
        rows.add_row(step, *cells)
    console.print(rows)
    left = names[len(shown) :]
    if left:
        console.print(f"[dim]--metric NAME shows the others: {escape(', '.join(left))}[/]")


def print_rollout(row: RolloutRow) -> None:
    """Prints one rollout: its figures, the prompt and the completion."""
    figures = [f"step {row.step}", f"{row.tokens} tokens" + (", cut off" if row.truncated else "")]
    figures.append(f"mean log p {row.mean_logprob:.3f}")
    if row.reward is not None:
        figures.append(f"reward {row.reward:g}")
        figures.append("no advantage" if row.advantage is None else f"advantage {row.advantage:+.3g}")
    console.print(Text(f"{'  '.join(figures)}  {row.model}", style="bold"))
    for message in row.messages:
        console.print(Text(f"{message.get('role')}: {printable(str(message.get('content')))}", style="dim"))
    console.print(Text(printable(row.completion)))
    console.print()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def printable(text: str) -> str:
    """The text without what a terminal would obey, since a policy may sample any characters."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def age(timestamp: float | None) -> str:
    return NOTHING if timestamp is None else f"{duration(time.time() - timestamp)} ago"
