"""Compares what `reheatd plan` says with what a run takes: `python -m bench.plan [--max-tokens 256] [--rank 16]`.

A daemon serves SmolLM2-135M, and a job of continued RL runs. The memory of the engine and of the worker is the largest
sum that the kernel gives for their processes, where shared pages count in part (PSS).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from bench.figures import Report
from bench.story_task import story_task
from reheatd.config_tables import BUILTIN_POLICY
from reheatd.engine.policy_model import resolve_policy
from tests.daemon import Daemon, running

ENGINE, WORKER = "reheatd.engine.server", "--hostname reheatd-"
POLL_S = 0.1
KV_CACHE_BYTES = 256 << 20
STEPS = 2
"""Adam's moments are there from the second step on."""
LEARNING_RATE = 3e-3
"""So few steps have to change the policy by more than rounding does; less cannot be proven to have arrived."""


class Peaks(threading.Thread):
    """Notes the largest memory of a daemon's engine and worker, until `stop`."""

    def __init__(self, daemon: int) -> None:
        super().__init__(daemon=True)
        self.bytes = {ENGINE: 0, WORKER: 0}
        self._daemon = psutil.Process(daemon)
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(POLL_S):
            for child in self._daemon.children():
                try:
                    name = next((name for name in self.bytes if name in " ".join(child.cmdline())), None)
                    if name is not None:
                        family = [child, *child.children(recursive=True)]
                        taken = sum(_pss(process.pid) for process in family)
                        self.bytes[name] = max(self.bytes[name], taken)
                except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                    continue  # a process that has just ended

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def planned(daemon: Daemon, max_tokens: int, prompt_tokens: int) -> dict[str, Any]:
    """What `reheatd plan` says for the daemon's configuration."""
    options = ["--tokens", str(max_tokens), "--prompt-tokens", str(prompt_tokens), "--json"]
    argv = [
        sys.executable,
        "-m",
        "cli.main",
        "plan",
        "--config",
        str(daemon.data_dir.parent / "reheatd.toml"),
        *options,
    ]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a policy takes, against what was planned.")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest rollout")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="longest prompt that is planned for")
    parser.add_argument("--rank", type=int, default=16, help="rank of the adapter in training")
    options = parser.parse_args()
    report = Report("plan")
    tables: dict[str, dict[str, Any]] = {
        "policy": {"max_model_len": options.max_tokens + options.prompt_tokens},
        "engine": {"kv_cache_bytes": KV_CACHE_BYTES, "max_lora_rank": options.rank},
        "rl": {"steps": STEPS, "max_tokens": options.max_tokens, "learning_rate": LEARNING_RATE},
        "control": {"mode": "observe"},
        "gate": {"accuracy_tolerance": 1.0, "entropy_tolerance": 0.5, "no_evidence": "pass"},
        "workers": {"report_rollouts": 2},
        "lora": {"rank": options.rank},
    }
    with (
        tempfile.TemporaryDirectory(prefix="reheatd-bench-") as folder,
        running(Path(folder), resolve_policy(BUILTIN_POLICY), task=story_task(Path(folder)), **tables) as daemon,
    ):
        said = planned(daemon, options.max_tokens, options.prompt_tokens)
        peaks = Peaks(daemon.process.pid)
        peaks.start()
        began = time.monotonic()
        job = daemon.reheatd("rl", "--wait")
        seconds = time.monotonic() - began
        peaks.stop()
    errors = []
    for name, key in ((ENGINE, "engine"), (WORKER, "worker")):
        ratio = said[key]["total"] / peaks.bytes[name]
        errors.append(abs(ratio - 1))
        print(f"{key}: planned {said[key]}, taken {peaks.bytes[name]}", flush=True)
        report.result(f"plan_{key}_memory_vs_taken", ratio)
    report.result("plan_memory_error", max(errors))
    report.write(said=said, job=job, seconds=seconds, taken=peaks.bytes)


if __name__ == "__main__":
    main()
