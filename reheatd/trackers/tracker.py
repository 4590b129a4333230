"""What a tracker is: the interface that the entry-point group `reheatd.trackers` names implementations of.

An entry point is a function that takes a `TrackerSetup` and returns a `Tracker`, or a class that does. Each tracker
runs in a process of its own, which `reheatd.trackers.process` is; there it may block, and raise whatever it likes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from reheatd.jobs.contracts import JobStatus

Value = bool | int | float | str
"""A value of a configuration or a summary."""


@dataclass(frozen=True)
class TrackerSetup:
    """What a tracker is set up with."""

    project: str
    """`trackers.project`."""
    folder: Path
    """Folder for the tracker's files, which need not exist."""
    mlflow_uri: str | None = field(default=None, repr=False)
    """`trackers.mlflow_uri`, which may hold a password."""


@dataclass(frozen=True)
class RunInfo:
    """A job, as a tracker sees it when the job's run begins."""

    job_id: str
    """Name of the run."""
    policy: str
    """Name of the policy, to which all runs of a daemon belong: their group, experiment or folder."""
    kind: Literal["reheat", "rl", "import"]
    created_at: float
    """Seconds since the epoch."""
    config: dict[str, Value]
    """The job's specification by dotted names, such as `lora.rank`."""


@dataclass(frozen=True)
class Point:
    """Metrics of one step that the tracker has not got yet."""

    row: int
    """Number of the step among all steps of the run, from 0. It differs from `step` in a job that tries several
    remedies, each of which counts its steps from the beginning."""
    step: int
    metrics: dict[str, float]
    """By the names of `reheatd.trackers.metric_names`; all values are finite."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: JobStatus
    finished_at: float
    """Seconds since the epoch."""
    step: int
    """The job's last step."""
    summary: dict[str, Value]
    """By the names of `reheatd.trackers.metric_names`."""
    report: Path | None
    """Folder with `report.md`, `report.json`, the curves and plots (`*.png`); None if the job made none."""

    @property
    def is_failure(self) -> bool:
        """Whether the job did not do its work. One that a gate rejected did."""
        return self.status in (JobStatus.FAILED, JobStatus.CANCELLED)


class Run(Protocol):
    """One run of a tracker."""

    def log(self, points: Sequence[Point]) -> None:
        """Takes points, by row. The next ones may add to the last row of these."""
        ...

    def finish(self, outcome: Outcome) -> None:
        """Takes the outcome and ends the run. What the tracker has got is safe when this returns."""
        ...

    def pause(self) -> None:
        """Lets go of a run whose job is not over; `Tracker.begin` goes on with it, in this process or another."""
        ...


class Tracker(Protocol):
    """An experiment tracker."""

    keeps: bool
    """Whether points are safe as soon as `Run.log` returns. If not, a run that is begun again gets all points once
    more, and the tracker has to see to it that each shows once."""

    def begin(self, info: RunInfo) -> Run:
        """Begins the run of a job, or goes on with it if there is one."""
        ...
