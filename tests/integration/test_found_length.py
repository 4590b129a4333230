"""`max_tokens = "auto"` in a real daemon: the first job finds how long rollouts are, and the next has the same.

The daemon is shared with the example of docs/client.md, which needs one that trains.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from reheatd.jobs.rollout_length import LEAST_TOKENS
from tests.daemon import running

MAX_MODEL_LEN = 192
CLIENT_DOCS = Path(__file__).parents[2] / "docs/client.md"


def run_examples(url: str, folder: Path) -> str:
    """What the Python examples of docs/client.md print, one after the other, against a daemon."""
    examples = re.findall(r"^```python\n(.*?)^```", CLIENT_DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    said = ""
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example],
            cwd=folder,
            env={**os.environ, "REHEATD_URL": url, "PYTHONPATH": str(CLIENT_DOCS.parents[1])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout
    return said


def test_a_job_trains_with_the_length_that_it_finds_and_the_next_keeps_it(tiny_policy: Path, tmp_path: Path) -> None:
    problems = [{"prompt": f"{number}+1=", "answer": str(number + 1)} for number in range(40)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    tables: dict[str, dict[str, Any]] = {
        "policy": {"max_model_len": MAX_MODEL_LEN},
        "task": {"path": str(tmp_path / "sums.jsonl"), "reward": "tests.repetition:reward", "eval_count": 4},
        "gate": {"no_evidence": "pass", "accuracy_tolerance": 1.0},
        "rl": {"max_tokens": "auto", "steps": 2, "prompts_per_step": 2, "learning_rate": 1e-2},
        "reheat": {"max_tokens": "auto"},
        "workers": {"report_rollouts": 4},
    }
    with running(tmp_path, tiny_policy, **tables) as daemon:
        models = daemon.http.get("/v1/models").json()["data"]
        assert {model["max_model_len"] for model in models} == {MAX_MODEL_LEN}

        first = daemon.reheatd("rl", "--wait")
        assert (first["status"], first["version"]) == ("succeeded", 1), first
        tokens = int(first["metrics"]["rollout_tokens"])
        assert LEAST_TOKENS <= tokens < MAX_MODEL_LEN
        spec = daemon.reheatd("adapters", "show", "1")["lineage"]["spec"]
        assert (spec["max_tokens"], spec["task"]["eval_max_tokens"]) == (tokens, tokens)
        rollouts = daemon.reheatd("jobs", "rollouts", first["job_id"])
        assert 0 < max(row["tokens"] for row in rollouts) <= tokens

        # The example of docs/client.md asks for the second job.
        said = run_examples(daemon.url, tmp_path)
        second = daemon.reheatd("jobs", "list")[-1]
        assert second["status"] == "succeeded" and "rollout_tokens" not in second["metrics"], second
        assert "succeeded" in said and "version 2 has " in said and " after 2 jobs" in said, said
        assert (tmp_path / "best" / "adapter_model.safetensors").is_file()
        assert daemon.reheatd("status")["promoted"]["version"] == 1

        told = daemon.reheatd("compare", "1", "2", "--ask", "7+1=", "--max-tokens", "4")
        assert [version["kind"] for version in told["versions"]] == ["rl", "rl"]
        assert all(version["accuracy"] and version["gates"] for version in told["versions"])
        assert all(0 < answer["tokens"] <= 4 for answer in told["asked"][0]["answers"].values())
        planned = daemon.reheatd("rl", "--dry-run")
        assert planned["spec"]["max_tokens"] == tokens and planned["plan"]["worker_bytes"] > 0, planned
        assert len(daemon.reheatd("jobs", "list")) == 2
        spec = daemon.reheatd("adapters", "show", "2")["lineage"]["spec"]
        assert (spec["max_tokens"], spec["task"]["eval_max_tokens"]) == (tokens, tokens)
        assert spec["parent_accuracy"] is not None  # that of version 1, whose answers were equally long
