"""Jobs with their records and files, as a daemon and its workers leave them, for the tests of trackers."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reheatd.config import Settings
from reheatd.control.ledger import Ledger
from reheatd.database import connect
from reheatd.jobs.attempts import begin_attempt
from reheatd.jobs.contracts import (
    GateResult,
    JobResult,
    JobStatus,
    ReheatRequest,
    ReheatSpec,
    RLRequest,
    RLSpec,
    TrainingSpec,
)
from reheatd.jobs.curves import CurveWriter
from reheatd.jobs.store import JobReader, JobRecord
from reheatd.options import Remedy, TaskOptions
from reheatd.trackers.follower import Follower
from reheatd.trackers.progress import ProgressFile, progress_file
from reheatd.trackers.tracker import Outcome, Point, RunInfo
from tests.unit.control_figures import entropy
from tests.unit.report_support import passing

POLICY = "acme/tiny"


class TrackedJobs:
    """A data folder, and the jobs in it."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.model_validate({"data_dir": folder, "policy": {"model": POLICY}})
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(connect(self.settings.database_path))

    def begin(self, *, remedy: Remedy | None = None, **options: Any) -> "TrackedJob":
        """A job that is dispatched and whose first worker has begun: one of RL, or a reheat if there is a remedy."""
        request = RLRequest() if remedy is None else ReheatRequest()
        record = self.ledger.create(request, "manual", JobStatus.QUEUED, 0)
        job = TrackedJob(self.ledger, record)
        fields: dict[str, Any] = {
            "job_id": record.job.job_id,
            "parent_version": 0,
            "parent_adapter": None,
            "model_path": Path("/models/tiny"),
            "gateway_url": "http://127.0.0.1:1",
            "output_dir": self.settings.jobs_dir / record.job.job_id,
            "task": TaskOptions(eval_max_tokens=64),
            "max_tokens": 64,
            **options,
        }
        record.spec = RLSpec(**fields) if remedy is None else ReheatSpec(remedy=remedy, tau=1.5, **fields)
        record.job.status = JobStatus.RUNNING
        self.ledger.save(record)
        job.attempt(1)
        return job


@dataclass
class TrackedJob:
    """One of the jobs."""

    ledger: Ledger
    record: JobRecord
    _curves: CurveWriter | None = None

    @property
    def job_id(self) -> str:
        return self.record.job.job_id

    @property
    def spec(self) -> TrainingSpec:
        assert isinstance(self.record.spec, ReheatSpec | RLSpec)
        return self.record.spec

    def attempt(self, number: int) -> None:
        """A worker begins an attempt."""
        self.spec.output_dir.mkdir(parents=True, exist_ok=True)
        self._curves = CurveWriter(begin_attempt(self.spec, number).curves_file)
        self.record.job.attempt = number
        self.ledger.save(self.record)

    def report(self, step: int, **metrics: float) -> None:
        """The worker reports metrics."""
        assert self._curves is not None
        self._curves.add(step, metrics)
        self.record.job.step = max(self.record.job.step, step)

    def finish(self, status: JobStatus = JobStatus.SUCCEEDED, report: Path | None = None) -> None:
        """The job goes through its gates and ends."""
        job = self.record.job
        if status is not JobStatus.FAILED:
            self.record.result = JobResult(
                adapter_dir=self.spec.output_dir,
                report_dir=report,
                steps=job.step,
                entropy_before=entropy(0.25),
                entropy_after=entropy(0.75),
                accuracy_before=passing(20, 0.5),
                accuracy_after=passing(30, 0.625),
                proof=[],
                stopped="steps",
                seconds=12.5,
            )
            job.version = 3
            outcome = "failed" if status is JobStatus.REJECTED else "passed"
            job.gates = [
                GateResult(name="entropy", outcome="passed", detail="0.75 is above the floor"),
                GateResult(name="accuracy", outcome=outcome, detail="30 of 48 | before 20"),
            ]
        job.status, job.finished_at = status, time.time()
        job.error = None if status is JobStatus.SUCCEEDED else "it went wrong"
        self.ledger.save(self.record)


@dataclass
class RecordedRun:
    """What a tracker has got of one job."""

    infos: list[RunInfo] = field(default_factory=list)
    """One for each time that the run was begun."""
    points: list[Point] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    pauses: int = 0

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        found: dict[str, list[tuple[int, float]]] = {}
        for point in self.points:
            for name, value in point.metrics.items():
                found.setdefault(name, []).append((point.step, value))
        return found


class RecordingTracker:
    """Keeps what it gets; `fails` is called first each time, with the job's id and what is done."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.keeps = keeps
        self.runs: dict[str, RecordedRun] = {}
        self.fails: Callable[[str, str], None] = lambda job_id, what: None

    def begin(self, info: RunInfo) -> "_Recording":
        self.fails(info.job_id, "begin")
        self.runs.setdefault(info.job_id, RecordedRun()).infos.append(info)
        return _Recording(self, info.job_id)


class _Recording:
    def __init__(self, tracker: RecordingTracker, job_id: str) -> None:
        self._tracker = tracker
        self._job_id = job_id

    def log(self, points: Sequence[Point]) -> None:
        self._tracker.fails(self._job_id, "log")
        self._run.points += points

    def finish(self, outcome: Outcome) -> None:
        self._tracker.fails(self._job_id, "finish")
        self._run.outcomes.append(outcome)

    def pause(self) -> None:
        self._run.pauses += 1

    @property
    def _run(self) -> RecordedRun:
        return self._tracker.runs[self._job_id]


def follower(jobs: TrackedJobs, tracker: RecordingTracker, **options: Any) -> Follower:
    """What a new process of the tracker has."""
    reader, settings = JobReader(jobs.settings.database_path), jobs.settings
    state = ProgressFile(progress_file(settings.data_dir, "recording"), reader)
    state.save()
    return Follower("recording", tracker, reader, state, policy=POLICY, adapters_dir=settings.adapters_dir, **options)
