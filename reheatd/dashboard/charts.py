"""What a curve on a page shows; `static/dashboard.js` draws it."""

import hashlib
import math
from typing import Literal

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from reheatd.entropy.history import Curve
from reheatd.entropy.regime import Thresholds
from reheatd.measures import Contract, EntropyEstimate


class Line(Contract):
    """A curve, with a band around it where `low` and `high` are given; all lists are as long as the chart's `x`."""

    label: str
    values: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None

    def extend(self) -> None:
        """Adds a point at which nothing was measured."""
        for column in (self.values, self.low, self.high):
            if column is not None:
                column.append(None)


class Level(Contract):
    """A horizontal line."""

    label: str
    value: float
    kind: Literal["baseline", "collapsed", "warning", "too_hot", "target"]


class Span(Contract):
    """A stretch of the horizontal axis, e.g. that in which a version was served."""

    label: str
    start: float
    end: float


class Mark(Contract):
    """A point of the horizontal axis at which something happened."""

    label: str
    x: float
    kind: Literal["promoted", "collapsed", "job", "request", "other"]


class Chart(Contract):
    """Curves over a common horizontal axis."""

    x: list[float]
    """Seconds since the epoch or steps, ascending. With `ticks`, 0, 1, 2, ..."""
    is_time: bool
    ticks: list[str] | None = None
    """Names of the points, which the axis shows in place of numbers."""
    unit: str
    lines: list[Line]
    levels: list[Level] = Field(default_factory=list)
    spans: list[Span] = Field(default_factory=list)
    marks: list[Mark] = Field(default_factory=list)


class Answer:
    """A chart as it is sent, with its digest, by which a browser asks whether it has changed."""

    def __init__(self, chart: Chart) -> None:
        self.body = chart.model_dump_json().encode()
        self.tag = f'"{hashlib.sha256(self.body).hexdigest()[:20]}"'

    def to(self, request: Request) -> Response:
        """The answer to a request, which is short if the browser has the chart already."""
        headers = {"etag": self.tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type="application/json", headers=headers)


def levels(baseline: EntropyEstimate | None, thresholds: Thresholds | None) -> list[Level]:
    """The entropies that verdicts compare with."""
    found: list[Level] = []
    if baseline is not None:
        found.append(Level(label="baseline", value=baseline.mean, kind="baseline"))
    if thresholds is not None:
        found.append(Level(label="collapsed below", value=thresholds.collapsed, kind="collapsed"))
        found.append(Level(label="warning below", value=thresholds.warning, kind="warning"))
        if thresholds.too_hot is not None:
            found.append(Level(label="too hot above", value=thresholds.too_hot, kind="too_hot"))
    return found


def over_time(curves: dict[str, Curve]) -> tuple[list[float], list[Line]]:
    """Curves on one axis: the times of all, and each curve with gaps where only another one has a window."""
    times = np.unique(np.concatenate([np.empty(0), *(curve.time for curve in curves.values())]))
    lines: list[Line] = []
    for label, curve in curves.items():
        columns = {"values": curve.mean, "low": curve.low, "high": curve.high}
        spread: dict[str, list[float | None]] = {}
        at = np.searchsorted(times, curve.time)
        for name, column in columns.items():
            whole = np.full(len(times), np.nan)
            whole[at] = column
            spread[name] = [None if math.isnan(value) else round(value, 5) for value in whole.tolist()]
        lines.append(Line(label=label, **spread))
    return times.tolist(), lines
