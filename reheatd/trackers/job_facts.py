"""What a tracker is told of a job, from its record and its files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reheatd.adapters.lineage import Lineage
from reheatd.jobs.attempts import newest_attempt
from reheatd.jobs.contracts import JobBase, JobResult, JobStatus, ReheatSpec
from reheatd.jobs.curves import CurvePoint, read_curves
from reheatd.jobs.store import JobRecord
from reheatd.measures import Accuracy, EntropyEstimate
from reheatd.options import Remedy
from reheatd.trackers.metric_names import OUTCOME, tracked_name
from reheatd.trackers.tracker import Outcome, Point, RunInfo, Value

CANDIDATES: tuple[Remedy, ...] = ("shrink", "ts_opsd", "entropy_bonus", "hot")
"""The candidates of the remedy `auto`, in the order in which a job makes them."""
NO_OPTIONS = {
    "job_id",
    "kind",
    "gateway_url",
    "output_dir",
    "places",
    "parent_entropy",
    "parent_accuracy",
    "base_accuracy",
}
"""Fields of a specification that say nothing of how the job was to be done: names, measurements and progress."""


def policy_name(model: str) -> str:
    """The name of a policy: that on the hub, or that of its folder."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def run_info(record: JobRecord, spec: JobBase, policy: str) -> RunInfo:
    job = record.job
    config: dict[str, Value] = {"policy": policy, "kind": job.kind, "trigger": job.trigger}
    config.update(_flat(spec.model_dump(mode="json", exclude=NO_OPTIONS)))
    return RunInfo(job.job_id, policy, job.kind, job.created_at, config)


def job_points(spec: JobBase, attempt: int) -> list[Point]:
    """All steps of a job so far.

    Args:
        attempt: The newest attempt at it.

    Raises:
        ReheatdError: A file of curves cannot be read.
    """
    rows = [
        (point.step, {prefix + tracked_name(name): value for name, value in point.metrics.items()})
        for prefix, curves in _curves(newest_attempt(spec, attempt))
        for point in curves
    ]
    return [Point(row, step, metrics) for row, (step, metrics) in enumerate(rows)]


def outcome_of(record: JobRecord, adapters_dir: Path) -> Outcome:
    """The outcome of a job that is over.

    Args:
        adapters_dir: The folder of all versions, which know what was measured of imported adapters.
    """
    job, result = record.job, record.result
    summary = dict(_summary(record, result or _lineage(adapters_dir, job.version)))
    report = result.report_dir if result is not None and result.report_dir is not None else None
    return Outcome(
        status=job.status,
        finished_at=job.finished_at or job.created_at,
        step=job.step,
        summary={OUTCOME + name: value for name, value in summary.items() if value is not None},
        report=report if report is not None and report.is_dir() else None,
    )


def _curves(spec: JobBase) -> Iterator[tuple[str, list[CurvePoint]]]:
    """The curves of a job, each with what its metrics' names begin with."""
    if not isinstance(spec, ReheatSpec) or spec.remedy != "auto":
        yield "", read_curves(spec.curves_file)
        return
    for remedy in CANDIDATES:
        yield f"{remedy}/", read_curves(spec.output_dir / "candidates" / remedy / spec.curves_file.name)


def _summary(record: JobRecord, measured: JobResult | Lineage | None) -> Iterator[tuple[str, Value | None]]:
    job = record.job
    yield "status", job.status.value
    yield "version", job.version
    yield "parent_version", job.parent_version
    yield "attempts", job.attempt
    if isinstance(measured, JobResult):
        yield "steps", measured.steps
        yield "stopped", measured.stopped
        yield "seconds", measured.seconds
    if measured is not None:
        yield "remedy", measured.remedy
        yield "entropy_before", _mean(measured.entropy_before)
        yield "entropy_after", _mean(measured.entropy_after)
        yield from _accuracy("before", measured.accuracy_before)
        yield from _accuracy("after", measured.accuracy_after)
    for gate in job.gates:  # of several candidates, the last one counts
        yield f"gate/{gate.name}", gate.outcome
    if job.gates:
        yield "gates", "\n".join(f"{gate.name} {gate.outcome}: {gate.detail}" for gate in job.gates)
    if job.status is not JobStatus.SUCCEEDED:
        yield "error", job.error


def _accuracy(when: str, accuracy: Accuracy | None) -> Iterator[tuple[str, Value]]:
    if accuracy is not None:
        yield f"accuracy_{when}", accuracy.value
        if accuracy.pass_at:
            best = accuracy.pass_at[-1]
            yield f"pass_at_{best.k}_{when}", best.value


def _mean(entropy: EntropyEstimate | None) -> float | None:
    return None if entropy is None else entropy.mean


def _lineage(adapters_dir: Path, version: int | None) -> Lineage | None:
    """What is known of a version; None if there is none, or if it was deleted."""
    if version is None:
        return None
    for file in adapters_dir.glob(f"policy-v{version}-*/lineage.json"):
        return Lineage.model_validate_json(file.read_text())
    return None


def _flat(values: dict[str, Any], name: str = "") -> Iterator[tuple[str, Value]]:
    """Nested values by dotted names; lists as JSON. What is not set is left out."""
    for key, value in values.items():
        full = f"{name}.{key}" if name else key
        if isinstance(value, dict):
            yield from _flat(value, full)
        elif isinstance(value, list):
            yield full, json.dumps(value)
        elif value is not None:
            yield full, value
