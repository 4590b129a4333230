"""The whole loop on the real parts: `reheatd demo` with a tiny policy, the user's own task and reward.

One run of the real daemon, vLLM, Celery, Valkey and training: collapse, detection, reheat, gates, swap, continued RL,
swap, while a client keeps asking.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from reheatd.database import connect
from reheatd.jobs.contracts import JobStatus
from reheatd.jobs.curves import read_curves
from reheatd.jobs.report import read_report
from reheatd.jobs.rollouts import read_rollouts
from reheatd.jobs.store import JobStore
from reheatd.process.ports import reserve_port
from reheatd.runlog.tensorboard_files import read_tensorboard
from reheatd.trackers.metric_names import tracked_name

REWARD = '''
def reward(completion: str, answer: str) -> float:
    """Share of ASCII letters: a sampled completion always has some and never only those."""
    return sum(c.isascii() and c.isalpha() for c in completion) / max(len(completion), 1)
'''

CONFIG = """
data_dir = "{folder}/data"
[policy]
model = "{model}"
max_model_len = 512
[server]
port = {port}
[engine]
kv_cache_bytes = 67108864
[entropy]
interval_s = 10.0
max_share = 1.0
max_tokens = 32
[task]
path = "{folder}/task.jsonl"
reward = "letters:reward"
eval_count = 8
eval_samples = 2
[gate]
accuracy_tolerance = 1.0
no_evidence = "pass"
[reheat]
prompts_per_step = 8
learning_rate = 5e-4
max_tokens = 32
[rl]
steps = 2
max_tokens = 16
[trackers]
names = ["tensorboard"]
"""


@pytest.fixture(scope="module")
def outcome(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("demo")
    (folder / "letters.py").write_text(REWARD)
    problems = [{"prompt": f"Write the word number {i}.", "answer": "letters"} for i in range(80)]
    (folder / "task.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    (folder / "reheatd.toml").write_text(CONFIG.format(folder=folder, model=tiny_policy, port=reserve_port()))
    command = [sys.executable, "-m", "cli.main", "demo", "--json", "--config", "reheatd.toml", "--output", "out"]
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{folder}"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as demo:
        killer = threading.Thread(
            target=kill_a_worker_after_its_first_checkpoint, args=(demo, folder / "data" / "jobs")
        )
        killer.start()
        stdout, stderr = demo.communicate()
        killer.join()
    assert demo.returncode == 0, f"{stderr[-6000:]}\n{stdout[-2000:]}"
    return json.loads(stdout), folder


def kill_a_worker_after_its_first_checkpoint(demo: subprocess.Popen[str], jobs: Path) -> None:
    while demo.poll() is None and not list(jobs.glob("*/attempt-*/checkpoint.pt")):
        time.sleep(0.05)
    for process in psutil.Process(demo.pid).children(recursive=True):
        if "workers.rewards.child" in process.cmdline():
            os.kill(process.ppid(), signal.SIGKILL)
            return


@pytest.mark.timeout(900)
def test_a_collapsed_policy_is_noticed_reheated_and_trained_on(outcome: tuple[dict[str, Any], Path]) -> None:
    result, _ = outcome
    baseline, collapsed, reheated, continued = result["stages"]
    assert [stage["parent"] for stage in result["stages"]] == [None, 0, 1, 2]
    assert [stage["version"] for stage in result["stages"]] == [0, 1, 2, 3]
    assert collapsed["high"] < 0.1 * baseline["entropy"]
    assert reheated["entropy"] > collapsed["high"]
    assert result["target_error"] <= 0.15
    assert continued["entropy"] > 0.1 * baseline["entropy"]
    seconds = result["seconds"]
    assert 0 < seconds["collapse to detection"] <= seconds["collapse to dispatch"]
    assert seconds["collapse to dispatch"] < seconds["collapse to reheated policy live"]


def test_the_client_noticed_nothing(outcome: tuple[dict[str, Any], Path]) -> None:
    result, _ = outcome
    assert result["requests_failed"] == 0
    assert result["requests_sent"] == sum(result["answers_by_model"].values()) > 0
    versions = {name.rpartition("-")[0] or name for name in result["answers_by_model"]}  # without their digests
    # A version may be replaced while the client reads the answer of the one before.
    assert "base" in versions and versions & {"policy-v1", "policy-v2", "policy-v3"}


def test_the_job_whose_worker_was_killed_was_resumed(outcome: tuple[dict[str, Any], Path]) -> None:
    _, folder = outcome
    jobs = JobStore(connect(folder / "data" / "reheatd.sqlite3")).all()
    assert [job.attempt for job in jobs] == [2, 1, 1]
    assert all(job.status is JobStatus.SUCCEEDED for job in jobs)


def test_what_is_left_is_complete(outcome: tuple[dict[str, Any], Path]) -> None:
    _, folder = outcome
    (run,) = (folder / "out").iterdir()
    assert (run / "timeline.png").read_bytes().startswith(b"\x89PNG")
    versions = sorted((folder / "data" / "adapters").iterdir())
    assert [version.name.rsplit("-", 1)[0] for version in versions] == ["policy-v1", "policy-v2", "policy-v3"]
    kinds = [json.loads((version / "lineage.json").read_text())["kind"] for version in versions]
    assert kinds == ["cool", "reheat", "rl"]
    for version, kind in zip(versions, ("reheat", "reheat", "rl"), strict=True):
        report = read_report(version / "report")
        assert report is not None and report.kind == kind and report.comparison.states > 100
        metric = "reward" if kind == "rl" else "loss"
        steps = [point.step for point in read_curves(version / "report" / "curves.jsonl") if metric in point.metrics]
        assert steps[: report.steps] == list(range(1, report.steps + 1))
        attempts = sorted((folder / "data" / "jobs" / report.job_id).glob("attempt-*"))
        rollouts = read_rollouts(attempts[-1] / "rollouts.jsonl")
        assert rollouts and all((row.reward is not None) == (kind == "rl") for row in rollouts)
        assert all(row.by_token is not None and len(row.by_token.logprobs) == row.tokens for row in rollouts)
        assert (version / "report" / "report.md").exists() and list((version / "report").glob("*.png"))
    assert not list((folder / "data" / "jobs").rglob("checkpoint.pt"))
    assert not list((folder / "data" / "adapters").glob(".*"))


def test_every_job_is_one_run_of_the_tracker(outcome: tuple[dict[str, Any], Path], tiny_policy: Path) -> None:
    _, folder = outcome
    runs = folder / "data" / "runs" / "tensorboard" / tiny_policy.name
    jobs = JobStore(connect(folder / "data" / "reheatd.sqlite3")).all()
    assert {path.name for path in runs.iterdir()} == {job.job_id for job in jobs}
    for job in jobs:
        logged = read_tensorboard(runs / job.job_id).metrics
        points = read_curves(folder / "data" / "jobs" / job.job_id / f"attempt-{job.attempt}" / "curves.jsonl")
        for name in ("reward" if job.kind == "rl" else "loss", "entropy", "probe_entropy"):
            steps = [point.step for point in points if name in point.metrics]
            assert list(logged[tracked_name(name)]) == steps, (job.job_id, name)
        assert list(logged["job/version"].values()) == [job.version]
