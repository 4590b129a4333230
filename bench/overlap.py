"""Measures what it brings to sample the next rollouts while a step of RL trains: `python -m bench.rl --only overlap`.

A real daemon with a real engine trains SmolLM2-135M by jobs of RL that differ only in `rl.staleness`. Jobs with 0 and 1
take turns. The time per step is that between the metrics of a job's first and last step, so neither the start of a
worker nor what is measured before and after training counts. The adapters hardly change, so that all jobs do the same
work.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import Report
from bench.paired import pseudomedian
from bench.story_task import story_task
from reheatd.config_tables import BUILTIN_POLICY
from reheatd.engine.policy_model import resolve_policy
from reheatd.jobs.contracts import Job, JobStatus
from tests.daemon import Daemon, running
from tests.waiting import wait_until

TURNS = 4
STEPS = 9
POLL_S = 0.1
ENDED = (JobStatus.SUCCEEDED, JobStatus.REJECTED)
TABLES: dict[str, dict[str, Any]] = {
    "policy": {"max_model_len": 512},
    "engine": {"kv_cache_bytes": 512 << 20},
    "control": {"mode": "observe"},
    "gate": {"accuracy_tolerance": 1.0, "entropy_tolerance": 0.5, "no_evidence": "pass"},
    "workers": {"report_rollouts": 2},
    "rl": {"steps": STEPS, "prompts_per_step": 4, "group_size": 8, "max_tokens": 64, "learning_rate": 1e-7},
}


def compare_staleness(report: Report) -> dict[str, list[float]]:
    """Reports the time per step without and with overlap; the times per step of all jobs, in seconds."""
    seconds: dict[str, list[float]] = {"0": [], "1": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = TABLES | {"task": story_task(folder)}
        with running(folder, resolve_policy(BUILTIN_POLICY), **tables) as daemon:
            wait_until(lambda: daemon.http.get("/reheatd/v1/status").json()["baseline"])
            _seconds_per_step(daemon, 0)  # the engine's first requests and adapters take longer
            for turn in range(TURNS):
                for staleness in (0, 1) if turn % 2 else (1, 0):
                    seconds[str(staleness)].append(_seconds_per_step(daemon, staleness))
    ratios = [alone / overlapped for alone, overlapped in zip(seconds["0"], seconds["1"], strict=True)]
    for staleness, times in seconds.items():
        report.result(f"step_seconds_staleness_{staleness}", pseudomedian(times)[0], "s")
    report.result("overlap_speedup", pseudomedian(ratios)[0])
    report.result("overlap_speedup_min", min(ratios))
    return seconds


def _seconds_per_step(daemon: Daemon, staleness: int) -> float:
    """Runs one job of RL.

    Raises:
        RuntimeError: The job failed, or a step did not train.
    """
    asked = daemon.http.post("/reheatd/v1/jobs", json={"kind": "rl", "staleness": staleness})
    asked.raise_for_status()
    path = f"/reheatd/v1/jobs/{asked.json()['job_id']}"
    reached: dict[int, float] = {}
    while not (job := Job.model_validate(daemon.http.get(path).json())).status.is_final:
        for point in daemon.http.get(f"{path}/curves").json()["points"]:
            if "grad_norm" in point["metrics"]:
                reached.setdefault(point["step"], time.perf_counter())
        time.sleep(POLL_S)
    if job.status not in ENDED or len(reached) != STEPS:
        raise RuntimeError(f"{path} {job.status} after {len(reached)} of {STEPS} steps: {job.error}")
    per_step = (reached[STEPS] - reached[1]) / (STEPS - 1)
    print(f"staleness {staleness}: {per_step:.2f} s per step", flush=True)
    return per_step
