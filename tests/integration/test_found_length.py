"""`max_tokens = "auto"` in a real daemon: the first job finds how long rollouts are, and the next has the same."""

import json
from pathlib import Path
from typing import Any

from reheatd.jobs.rollout_length import LEAST_TOKENS
from tests.daemon import running

MAX_MODEL_LEN = 192


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

        second = daemon.reheatd("rl", "--wait")
        assert second["status"] == "succeeded" and "rollout_tokens" not in second["metrics"], second
        spec = daemon.reheatd("adapters", "show", "2")["lineage"]["spec"]
        assert (spec["max_tokens"], spec["task"]["eval_max_tokens"]) == (tokens, tokens)
        assert spec["parent_accuracy"] is not None  # that of version 1, whose answers were equally long
