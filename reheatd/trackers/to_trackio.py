"""The tracker `trackio`: a run for each job, in the group of the policy.

Runs are in the files of TRACKIO_DIR, or in the Space that TRACKIO_SPACE_ID names. trackio writes from a thread, which
only the end of a run waits for. So each call opens the run, sends, and ends it again.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trackio
from trackio.run import Run

from reheatd.trackers.tracker import Outcome, Point, RunInfo, TrackerSetup


class TrackioTracker:
    """Makes runs of trackio."""

    keeps = True

    def __init__(self, setup: TrackerSetup) -> None:
        self._project = setup.project

    def begin(self, info: RunInfo) -> "TrackioRun":
        def opened() -> Run:
            return trackio.init(
                project=self._project,
                name=info.job_id,
                group=info.policy,
                config=info.config,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

        return TrackioRun(opened)


class TrackioRun:
    """One run of trackio.

    Args:
        opened: Opens the run, or makes it.
    """

    def __init__(self, opened: Callable[[], Run]) -> None:
        self._opened = opened

    def log(self, points: Sequence[Point]) -> None:
        self._send([(point.step, point.metrics) for point in points])

    def finish(self, outcome: Outcome) -> None:
        """trackio has no summary of a run; the outcome is logged at the last step, with report and plots."""
        found: dict[str, Any] = dict(outcome.summary)
        if outcome.report is not None:
            found["report"] = trackio.Markdown((outcome.report / "report.md").read_text())
            found |= {f"report/{plot.stem}": trackio.Image(str(plot)) for plot in outcome.report.glob("*.png")}
        self._send([(outcome.step, found)])

    def pause(self) -> None:
        """trackio holds nothing of a run in this process."""

    def _send(self, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            run = self._opened()
            for step, values in rows:
                run.log(dict(values), step=step)
            run.finish()
        # trackio only warns of what it could not write or send.
        for warning in caught:
            if warning.category is UserWarning:
                raise RuntimeError(str(warning.message))
