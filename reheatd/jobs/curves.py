"""The curves of a job: every metric that training reported, step by step, in `curves.jsonl` in the job's folder."""

import math
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from reheatd.jobs.step_log import StepLog, StepRow

CURVES_FILE = "curves.jsonl"


class CurvePoint(StepRow):
    """The metrics of one step."""

    metrics: dict[str, float] = Field(default_factory=dict)


class CurveWriter:
    """Adds to the curves in `file`."""

    def __init__(self, file: Path) -> None:
        self._log = StepLog(file, CurvePoint)
        self._continued = False

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Adds metrics of a step. Values that are not finite are left out, because they are no points of a curve.

        Raises:
            ReheatdError: The file cannot be written.
        """
        if not self._continued:
            # Later steps are those that a dead worker took after its last checkpoint; they are taken again.
            self._log.keep_only(lambda point: point.step <= step)
            self._continued = True
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._log.append([CurvePoint(step=step, metrics=finite)])


def read_curves(file: Path) -> list[CurvePoint]:
    """The curves in `file`: one point per step, by step; none if there is no file.

    A step may be reported in parts, and twice by a resumed job. What was written last counts.

    Raises:
        ReheatdError: The file cannot be read.
    """
    points: dict[int, CurvePoint] = {}
    for part in StepLog(file, CurvePoint).read():
        points.setdefault(part.step, CurvePoint(step=part.step)).metrics.update(part.metrics)
    return [points[step] for step in sorted(points)]


def metric_names(points: Iterable[CurvePoint]) -> list[str]:
    """The names of all metrics, in the order of their first appearance."""
    return list(dict.fromkeys(name for point in points for name in point.metrics))
