"""Each tracker's process with the real package: what it wrote is read back from the real store."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reheatd.config import Settings
from reheatd.jobs.contracts import JobStatus
from reheatd.jobs.curves import CurvePoint
from reheatd.process.children import child_environment
from reheatd.process.supervisor import Supervisor
from reheatd.runlog.log import RunLog
from reheatd.runlog.metric_names import known
from reheatd.runlog.tensorboard_files import read_tensorboard
from reheatd.runlog.wandb_files import read_wandb, records
from reheatd.trackers.children import tracker_commands, tracker_health
from reheatd.trackers.progress import TrackerProgress, progress_file, read_progress
from tests.unit.report_support import job_report
from tests.unit.tracked_jobs import POLICY, TrackedJob, TrackedJobs
from tests.waiting import until, wait_until
from workers.report import write_report

if TYPE_CHECKING:  # each is a tracker
    from reheatd.trackers.to_mlflow import MlflowTracker
    from reheatd.trackers.to_tensorboard import TensorboardTracker
    from reheatd.trackers.to_trackio import TrackioTracker
    from reheatd.trackers.to_wandb import WandbTracker
    from reheatd.trackers.tracker import Tracker, TrackerSetup

    OURS: list[Callable[[TrackerSetup], Tracker]] = [MlflowTracker, TensorboardTracker, TrackioTracker, WandbTracker]

CURVES = [CurvePoint(step=step, metrics={"loss": 1.0 / step}) for step in (1, 2, 3)]
PLOTS = {
    "cka",
    "curves",
    "entropy_by_position",
    "entropy_change",
    "logprob_by_position",
    "pass_at_k",
    "token_kl",
    "top_k",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a job, as a worker writes it."""
    folder = tmp_path_factory.mktemp("report") / "report"
    write_report(folder, job_report(), CURVES)
    return folder


class Tracked:
    """A tracker that follows the jobs of a data folder in its own process, as the daemon starts it."""

    def __init__(self, folder: Path, name: str, env: dict[str, str] | None = None) -> None:
        self.jobs = TrackedJobs(folder / "data")
        self.name = name
        self.folder = folder / "runs"
        table = {"names": [name], "folder": self.folder, "project": "our-project"}
        given = {**self.jobs.settings.model_dump(), "trackers": table}
        self.settings = Settings.model_validate(given)
        self._env = env or {}
        self._log = folder / "tracker.log"

    @contextmanager
    def process(self, end: signal.Signals = signal.SIGTERM) -> Iterator[None]:
        (command,) = tracker_commands(self.settings)
        env = {**child_environment(command.env), **self._env}
        with self._log.open("ab") as log:
            process = subprocess.Popen(command.argv, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
            assert process.poll() is None, self._log.read_text()
        finally:
            # W&B has a process of its own below, which the daemon's guard would end.
            os.killpg(process.pid, end) if end is signal.SIGKILL else process.send_signal(end)
            code = process.wait()
        assert code == (0 if end is signal.SIGTERM else -end), self._log.read_text()

    def until(self, reached: Any) -> None:
        def check() -> bool:
            progress = read_progress(progress_file(self.settings.data_dir, self.name))
            (health,) = tracker_health(self.settings)
            assert health.ok, (health, self._log.read_text())
            return progress is not None and reached(progress)

        wait_until(check)


def run_a_job(tracked: Tracked, report: Path) -> TrackedJob:
    """A job of RL whose first worker dies, and with it the tracker's process; the second worker ends the job."""

    def has_sent(step: int) -> Any:
        return lambda progress: any(job.sent.get("train/reward") == step for job in progress.jobs.values())

    def is_done(progress: TrackerProgress) -> bool:
        return progress.first > 1 or progress.done == [1]

    with tracked.process(signal.SIGKILL):
        tracked.until(lambda progress: progress.first == 1)
        job = tracked.jobs.begin(learning_rate=3e-4)
        for step in (1, 2):
            job.report(step, reward=0.5 * step, entropy=0.25, **{"reward_our_rewards:polite!": 1.0})
        if tracked.name != "wandb":  # which does not keep what it is given at once
            tracked.until(has_sent(2))
        else:
            tracked.until(lambda progress: bool(progress.jobs))
    job.attempt(2)  # it goes on from the checkpoint after step 1
    for step in (2, 3):
        job.report(step, reward=0.5 * step, entropy=0.25, **{"reward_our_rewards:polite!": 1.0})
    with tracked.process():
        if tracked.name != "wandb":
            tracked.until(has_sent(3))
        job.finish(JobStatus.REJECTED, report)
        tracked.until(is_done)
    return job


def assert_diagnosable(log: RunLog) -> None:
    """What trackers get has the names that `reheatd diagnose` knows."""
    for signal_name in ("entropy", "reward"):
        found = known(signal_name, log.metrics)
        assert found is not None and found[0].trainer == "TRL", signal_name


def test_tensorboard_has_the_whole_job_in_one_run(tmp_path: Path, report: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.metadata import parse_session_end_info_plugin_data as end_of
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data as start_of

    tracked = Tracked(tmp_path, "tensorboard")
    job = run_a_job(tracked, report)
    folder = tracked.folder / "tensorboard" / POLICY / job.job_id
    assert [path.name for path in folder.parent.iterdir()] == [job.job_id]
    log = read_tensorboard(folder)
    assert log.metrics["train/reward"] == {1: 0.5, 2: 1.0, 3: 1.5}
    assert log.metrics["train/rewards/our_rewards:polite!/mean"] == {1: 1.0, 2: 1.0, 3: 1.0}
    assert log.metrics["job/entropy_after"] == {3: 0.75}
    assert_diagnosable(log)
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    assert {tag.removeprefix("report/") for tag in events.Tags()["images"]} == PLOTS
    texts = {
        tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in ("config/text_summary", "config", "job", "report")
        if tag in events.Tags()["tensors"]
    }
    assert "| learning_rate | 0.0003 |" in texts["config"]
    assert "| job/status | rejected |" in texts["job"] and "before 20" in texts["job"]
    assert texts["report"].startswith("# reheat-1: reheat from policy-v0")
    start = start_of(events.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content)
    assert start.hparams["learning_rate"].number_value == 3e-4
    end = end_of(events.SummaryMetadata(SESSION_END_INFO_TAG).plugin_data.content)
    assert end.status == 1  # a job whose version is rejected did its work


def test_a_tracker_that_fails_is_started_again_and_gets_everything_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracked = Tracked(tmp_path, "tensorboard")
    tracked.folder.write_text("a file where the folder of event files should be")
    job = tracked.jobs.begin()
    for step in (1, 2):
        job.report(step, reward=0.5 * step)
    folder = tracked.folder / "tensorboard" / POLICY / job.job_id

    async def run() -> None:
        supervisor = Supervisor(tmp_path / "logs")
        (command,) = tracker_commands(tracked.settings)
        child = await supervisor.start(command)
        child.keep_running()
        await until(lambda: "the tracker-tensorboard exited with code 1" in caplog.text)
        assert f"tensorboard has not taken what is new of {job.job_id}" in caplog.text
        (health,) = tracker_health(tracked.settings)
        assert (health.ok, health.waiting) == (False, [job.job_id])
        tracked.folder.unlink()
        await until(lambda: tracker_health(tracked.settings)[0].ok)
        await supervisor.stop_all()

    asyncio.run(run())
    assert read_tensorboard(folder).metrics["train/reward"] == {1: 0.5, 2: 1.0}


def test_wandb_has_the_whole_job_in_its_offline_files(tmp_path: Path, report: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    tracked = Tracked(tmp_path, "wandb", {"WANDB_MODE": "offline", "HOME": str(tmp_path)})
    job = run_a_job(tracked, report)
    files = sorted((tracked.folder / "wandb").glob(f"offline-run-*-{job.job_id}/*.wandb"), key=os.path.getmtime)
    assert len(files) == 2  # one for each process
    log = read_wandb(files[-1])
    assert log.metrics["train/reward"] == {1: 0.5, 2: 1.0, 3: 1.5}
    assert_diagnosable(log)
    found = [Record.FromString(content) for content in records(files[-1], files[-1].read_bytes())]
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"][:1]
    assert (run.run_id, run.display_name, run.run_group, run.project) == (job.job_id, job.job_id, POLICY, "our-project")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["learning_rate"], config["lora.rank"]) == (3e-4, 16)
    summary: dict[str, Any] = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                summary[item.key or item.nested_key[0]] = json.loads(item.value_json)
    assert (summary["job/status"], summary["job/entropy_after"]) == ("rejected", 0.75)
    assert summary["job/gate/accuracy"] == "failed"
    (artifact,) = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    assert artifact.type == "report"
    assert {entry.path for entry in artifact.manifest.contents} >= {"report.md", "report.json", "curves.png"}
    assert {f"report/{plot}" for plot in PLOTS} <= summary.keys()
    assert [record.exit.exit_code for record in found if record.WhichOneof("record_type") == "exit"] == [0]


def test_mlflow_has_the_whole_job_in_one_run_of_its_store(
    tmp_path: Path, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracked = Tracked(tmp_path, "mlflow")
    job = run_a_job(tracked, report)
    client = MlflowClient(tracking_uri=f"sqlite:///{tracked.folder}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name(POLICY)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (job.job_id, "FINISHED")
    history = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "train/reward")]
    assert sorted(history) == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert run.data.metrics["train/rewards/our_rewards:polite_/mean"] == 1.0
    assert run.data.metrics["job/entropy_after"] == 0.75
    assert (run.data.params["learning_rate"], run.data.params["lora.rank"]) == ("0.0003", "16")
    assert (run.data.tags["job/status"], run.data.tags["job/gate/accuracy"]) == ("rejected", "failed")
    names = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "report")}
    assert names >= {"report.md", "report.json", "curves.png"}


def test_trackio_has_the_whole_job_in_one_run_of_its_database(tmp_path: Path, report: Path) -> None:
    tracked = Tracked(tmp_path, "trackio", {"TRACKIO_DIR": str(tmp_path / "trackio"), "HOME": str(tmp_path)})
    job = run_a_job(tracked, report)
    with closing(sqlite3.connect(tmp_path / "trackio" / "our-project.db")) as db:
        rows = db.execute(
            "SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY step", (job.job_id,)
        ).fetchall()
        configs = db.execute("SELECT run_name, config FROM configs").fetchall()
    logged = [(step, json.loads(metrics)) for step, metrics in rows]
    assert [(step, metrics["train/reward"]) for step, metrics in logged if "train/reward" in metrics] == [
        (1, 0.5),
        (2, 1.0),
        (3, 1.5),
    ]
    (outcome,) = [metrics for _, metrics in logged if "job/status" in metrics]
    assert (outcome["job/status"], outcome["job/entropy_after"]) == ("rejected", 0.75)
    assert {f"report/{plot}" for plot in PLOTS} <= outcome.keys()
    assert {name for name, _ in configs} == {job.job_id}
    config = json.loads(configs[0][1])
    assert (config["learning_rate"], config["lora.rank"], config["_Group"]) == (3e-4, 16, POLICY)
