"""Clients do not queue behind the rollouts of a job, of which a step has many more than the engine decodes at once."""

import json
from pathlib import Path
from typing import Any

from tests.daemon import running
from tests.waiting import wait_until

PROMPTS, GROUP = 24, 4


def test_a_client_is_answered_while_a_job_has_most_of_its_rollouts_still_to_sample(
    tiny_policy: Path, tmp_path: Path
) -> None:
    problems = [{"prompt": f"{number}+1=", "answer": str(number + 1)} for number in range(60)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    tables: dict[str, dict[str, Any]] = {
        "policy": {"max_model_len": 512},
        "engine": {"max_num_seqs": 8},
        "task": {"path": str(tmp_path / "sums.jsonl"), "eval_count": 4, "eval_samples": 1, "eval_max_tokens": 4},
        "rl": {"max_tokens": 400, "steps": 1, "prompts_per_step": PROMPTS, "group_size": GROUP},
    }
    with running(tmp_path, tiny_policy, **tables) as daemon:
        job = daemon.http.post("/reheatd/v1/jobs", json={"kind": "rl"}).json()

        def sampled() -> int:
            """Prompts whose rollouts are there; 0 before the job samples them."""
            now = daemon.http.get(f"/reheatd/v1/jobs/{job['job_id']}").json()
            assert now["status"] in ("queued", "running"), now
            return now["done"] or 0 if now["phase"] == "sampling" else 0

        wait_until(sampled)
        before = sampled()
        assert daemon.answer().status_code == 200
        assert before <= sampled() < PROMPTS // 2
        daemon.reheatd("jobs", "cancel", job["job_id"])
