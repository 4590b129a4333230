"""RL that has lost a strategy: every group fails, the run stalls, a remedy is chosen, and RL learns again.

With the real engine, Celery, training and control loop; nobody does anything.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from reheatd.adapters.store import AdapterStore
from reheatd.database import connect
from tests.daemon import Daemon, running
from tests.waiting import wait_until


def lose_a_strategy(folder: Path, tiny_policy: Path) -> str:
    """Makes version 1 of the data folder, promoted, a policy that never writes the characters that are returned."""
    command = [sys.executable, "-m", "tests.lost_strategy", str(tiny_policy), str(folder / "lost")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["share"] > 0.02, made
    with contextlib.closing(connect(folder / "data" / "reheatd.sqlite3")) as db:
        store = AdapterStore(folder / "data" / "adapters", db)
        asyncio.run(store.publish(folder / "lost", parent=0, base_model="tiny", base_digest="", kind="imported"))
        store.promote(1)
    return made["lost"]


def test_a_stalled_run_is_given_a_remedy_and_learns_again(tiny_policy: Path, tmp_path: Path) -> None:
    lost = lose_a_strategy(tmp_path, tiny_policy)
    problems = [{"prompt": f"Write the word number {number}.", "answer": lost} for number in range(160)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    tables: dict[str, dict[str, Any]] = {
        "entropy": {"probe_count": 24, "max_tokens": 24, "stall_steps": 4},
        "task": {"path": str(tmp_path / "words.jsonl"), "reward": "tests.found_again:reward", "eval_count": 8},
        "gate": {"no_evidence": "pass", "accuracy_tolerance": 1.0},
        "reheat": {"remedy": "auto", "target_entropy": 2.0, "max_tokens": 24, "learning_rate": 1e-3},
        "rl": {"steps": 4, "max_tokens": 24, "group_size": 8, "learning_rate": 1e-3, "max_resamples": 0},
        "workers": {"report_rollouts": 4},
        "control": {"trigger": ["stalled"], "rl": "continuous", "cooldown_s": 0.0},
    }
    tables["reheat"] |= {"signal_problems": 48, "signal_samples": 8}
    with running(tmp_path, tiny_policy, **tables) as daemon:
        failing, remedy, learning = wait_until(lambda: first_three(daemon))
        assert (failing["trigger"], failing["status"]) == ("round", "rejected")
        assert failing["metrics"]["groups_all_fail"] == failing["metrics"]["groups"]

        assert (remedy["trigger"], remedy["status"], remedy["parent_version"]) == ("stall", "succeeded", 1), remedy
        lineage = daemon.reheatd("adapters", "show", str(remedy["version"]))["lineage"]
        assert lineage["remedy"] in ("shrink", "ts_opsd")
        assert lineage["signal_before"]["lost"] > 32
        assert sum(map(bool, lineage["signal_after"]["rewarded"])) > sum(
            map(bool, lineage["signal_before"]["rewarded"])
        )
        (signal,) = [gate for gate in remedy["gates"] if gate["name"] == "signal" and gate["outcome"] == "passed"]
        assert signal["detail"].startswith(f"{lineage['remedy']}: ")

        assert (learning["trigger"], learning["status"]) == ("round", "succeeded"), learning
        assert learning["parent_version"] == remedy["version"]
        assert learning["metrics"]["groups_varied"] > 0 and learning["metrics"]["noop_steps"] < 4


def first_three(daemon: Daemon) -> list[dict[str, Any]] | None:
    """The first three jobs of the daemon, once they are over."""
    jobs = sorted(daemon.http.get("/reheatd/v1/jobs").json()["jobs"], key=lambda job: job["created_at"])[:3]
    over = [job for job in jobs if job["finished_at"] is not None]
    return over if len(over) == 3 else None
