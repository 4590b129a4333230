"""Policies that TRL's own GRPO trainer has collapsed, through reheatd and out again.

One comes as an adapter, one as a whole checkpoint with its base as the reference.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROMPT = list(range(40, 60))
COMPLETION = list(range(100, 140))


@pytest.fixture(scope="module")
def trained(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What TRL left: the adapter, its log and the whole checkpoint."""
    out = tmp_path_factory.mktemp("trl")
    command = [sys.executable, "-m", "tests.trl_collapse", str(tiny_policy), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A task whose reward collapses a policy, and short jobs; all that decides on a collapse is at its default."""
    task = tmp_path_factory.mktemp("task") / "words.jsonl"
    problems = [{"prompt": f"Write the word number {number}.", "answer": ""} for number in range(96)]
    task.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return {
        "entropy": {"probe_count": 24, "max_tokens": 24},
        "task": {"path": str(task), "reward": "tests.repetition:reward", "eval_count": 8, "eval_samples": 2},
        "gate": {"accuracy_tolerance": 1.0},
        "reheat": {"max_tokens": 24},
        "rl": {"steps": 4, "max_tokens": 24, "group_size": 8, "learning_rate": 1e-3},
        "workers": {"report_rollouts": 4},
        "control": {"cooldown_s": 0.0},
    }
