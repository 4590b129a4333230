"""The tracker `mlflow`: a run for each job, in the experiment of the policy.

The store is that of `trackers.mlflow_uri` or MLFLOW_TRACKING_URI, or else a file of SQLite in `FOLDER/mlflow`.
"""

import os
import re
import time
from collections.abc import Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from reheatd.jobs.contracts import JobStatus
from reheatd.trackers.tracker import Outcome, Point, RunInfo, TrackerSetup, Value

JOB_TAG = "reheatd.job"
"""Tag that holds the id of a run's job, by which the run is found again."""
UNUSABLE = re.compile(r"[^/\w.\- :]")
"""Characters that MLflow refuses in names."""
METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100
"""MLflow's limits of one call."""
LONGEST_PARAM, LONGEST_TAG = 6000, 5000
STATUS = {JobStatus.FAILED: "FAILED", JobStatus.CANCELLED: "KILLED"}
"""The statuses of runs whose jobs did not do their work; all others are FINISHED."""


class MlflowTracker:
    """Makes runs of MLflow."""

    keeps = True

    def __init__(self, setup: TrackerSetup) -> None:
        uri = setup.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self._artifacts: str | None = None
        if uri is None:
            folder = setup.folder / "mlflow"
            folder.mkdir(parents=True, exist_ok=True)
            uri, self._artifacts = f"sqlite:///{folder}/mlflow.db", (folder / "artifacts").as_uri()
        self._client = MlflowClient(tracking_uri=uri)

    def begin(self, info: RunInfo) -> "MlflowRun":
        client = self._client
        experiment = client.get_experiment_by_name(info.policy)
        if experiment is None:
            experiment_id = client.create_experiment(info.policy, artifact_location=self._artifacts)
        else:
            experiment_id = experiment.experiment_id
        known = client.search_runs([experiment_id], f"tags.`{JOB_TAG}` = '{info.job_id}'", max_results=1)
        if known:
            run_id = known[0].info.run_id
            client.update_run(run_id, status="RUNNING")
        else:
            tags = {JOB_TAG: info.job_id, "reheatd.kind": info.kind}
            created = int(info.created_at * 1000)
            run_id = client.create_run(experiment_id, created, tags, run_name=info.job_id).info.run_id
        # A process that died may have logged some of these; MLflow takes an equal value again.
        params = [Param(_usable(name), str(value)[:LONGEST_PARAM]) for name, value in info.config.items()]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])
        return MlflowRun(client, run_id)


class MlflowRun:
    """One run of MLflow."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            self._log(point.step, point.metrics)

    def finish(self, outcome: Outcome) -> None:
        client, summary = self._client, outcome.summary
        self._log(outcome.step, {name: value for name, value in summary.items() if isinstance(value, int | float)})
        for name, value in _texts(summary).items():
            client.set_tag(self._run_id, _usable(name), value[:LONGEST_TAG])
        if outcome.report is not None:
            client.log_artifacts(self._run_id, str(outcome.report), "report")
        status = STATUS.get(outcome.status, "FINISHED")
        client.set_terminated(self._run_id, status, end_time=int(outcome.finished_at * 1000))

    def pause(self) -> None:
        """MLflow holds nothing of a run in this process."""

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(_usable(name), float(value), now, step) for name, value in values.items()]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + METRICS_AT_ONCE])


def _texts(summary: Mapping[str, Value]) -> dict[str, str]:
    return {name: value for name, value in summary.items() if isinstance(value, str)}


def _usable(name: str) -> str:
    return UNUSABLE.sub("_", name)
