"""The curves of jobs over their steps: several metrics, of several jobs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reheatd.dashboard.charts import Chart, Level, Line
from reheatd.errors import BadInputError
from reheatd.jobs.curves import CurvePoint, metric_names

MOST_LINES = 6
"""Metrics of one chart, and jobs besides the first: as many as there are colours."""
POINTS = 600
ROWS = 100
FIRST_CHOICES = ("reward", "entropy", "probe_entropy", "loss")
"""Metrics of which the first is shown that the job has, if nobody chose one."""
ENTROPIES = frozenset(("entropy", "probe_entropy"))


@dataclass(frozen=True)
class JobCurves:
    """What a job has reported so far."""

    job_id: str
    points: list[CurvePoint]
    target: float | None = None
    """Entropy at which the job stops, in nats per token; None if it has no target."""


@dataclass(frozen=True)
class Metrics:
    """The metrics of a job, and those of them that are shown."""

    known: list[str]
    chosen: list[str]


@dataclass(frozen=True)
class Figures:
    """The points of a chart as a table."""

    columns: list[str]
    rows: list[tuple[int, list[float | None]]]
    """Steps with a figure for each column."""
    left_out: int
    """Steps that the table leaves out, at equal distances."""


def metrics_of(curves: JobCurves, asked: list[str]) -> Metrics:
    """The metrics of a job, of which those are shown that somebody asked for, or else one.

    Raises:
        BadInputError: The job has reported other metrics, but not one that was asked for.
    """
    known = metric_names(curves.points)
    for name in asked:
        if known and name not in known:
            raise BadInputError(
                f"metric = {name!r} is not reported by {curves.job_id}; it has {', '.join(known)}", param="metric"
            )
    return Metrics(known, asked or [*[name for name in FIRST_CHOICES if name in known], *known][:1])


def chart_of(
    jobs: Sequence[JobCurves], metrics: Sequence[str], *, start: float | None = None, end: float | None = None
) -> Chart:
    """The chart of some metrics of some jobs, from step `start` to step `end`."""
    steps = sorted(
        {
            point.step
            for curves in jobs
            for point in curves.points
            if (start is None or point.step >= start) and (end is None or point.step <= end)
            if any(name in point.metrics for name in metrics)
        }
    )
    place = {step: index for index, step in enumerate(steps)}
    columns: dict[str, np.ndarray] = {}
    for curves in jobs:
        for name in metrics:
            column = np.full(len(steps), np.nan)
            for point in curves.points:
                if point.step in place and name in point.metrics:
                    column[place[point.step]] = point.metrics[name]
            columns[_label(curves.job_id, name, len(jobs), len(metrics))] = column
    kept = _kept(columns, len(steps))
    levels = [
        Level(label=f"target of {curves.job_id}" if len(jobs) > 1 else "target", value=curves.target, kind="target")
        for curves in jobs
        if curves.target is not None and set(metrics) <= ENTROPIES
    ]
    return Chart(
        x=[float(steps[index]) for index in kept],
        is_time=False,
        unit=metrics[0] if len(metrics) == 1 else "",
        lines=[Line(label=label, values=_plain(column[kept])) for label, column in columns.items()],
        levels=levels,
    )


def figures_of(chart: Chart) -> Figures:
    """The chart as a table of at most `ROWS` steps, the newest among them."""
    count = len(chart.x)
    chosen = sorted({round(place) for place in np.linspace(0, count - 1, min(count, ROWS)).tolist()})
    return Figures(
        columns=[line.label for line in chart.lines],
        rows=[(int(chart.x[index]), [line.values[index] for line in chart.lines]) for index in chosen],
        left_out=count - len(chosen),
    )


def _label(job_id: str, metric: str, jobs: int, metrics: int) -> str:
    """The name of a line, which says what tells it from the others."""
    if jobs == 1:
        return metric
    return job_id if metrics == 1 else f"{job_id} {metric}"


def _kept(columns: dict[str, np.ndarray], count: int) -> list[int]:
    """The places of at most about `POINTS` steps: of equal stretches the lowest and highest of every line."""
    if count <= POINTS:
        return [*range(count)]
    kept = {0, count - 1}
    stretches = max(1, POINTS // (2 * len(columns)))
    for part in np.array_split(np.arange(count), stretches):
        for column in columns.values():
            values = column[part]
            if not np.isnan(values).all():
                kept |= {int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])}
    return sorted(kept)


def _plain(column: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in column.tolist()]
