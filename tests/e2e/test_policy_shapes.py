"""Policies of the shapes that people have are served, retrained and swapped, with the real engine and Celery.

Their sizes are tiny and their weights random; heads, norms, windows of attention and chat templates are those of the
large ones.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon, running
from tests.tiny_shapes import STRICT_TEMPLATE, THINKING_TEMPLATE, build_shape
from tests.waiting import wait_until

CHAT = [{"role": "user", "content": "What is 2 + 2?"}]


@pytest.mark.parametrize(
    ("shape", "tied", "template", "policy"),
    [
        ("qwen3", True, THINKING_TEMPLATE, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("llama", False, None, {"chat_template": "raw"}),
        ("gemma3_text", True, STRICT_TEMPLATE, {}),
    ],
    ids=["qwen3, tied, thinking", "llama, untied, no chat template", "gemma3, tied, no system role"],
)
def test_a_policy_is_served_reheated_trained_and_swapped(
    shape: str, tied: bool, template: str | None, policy: dict[str, Any], tmp_path: Path
) -> None:
    model = build_shape(tmp_path / "model", shape, tied=tied, chat_template=template)
    problems = [{"prompt": f"Write the word number {number}.", "answer": "aeiou"} for number in range(60)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    tables: dict[str, dict[str, Any]] = {
        "policy": policy,
        "task": {"path": str(tmp_path / "words.jsonl"), "reward": "tests.found_again:reward", "eval_count": 8},
        "gate": {"no_evidence": "pass", "accuracy_tolerance": 1.0},
        "reheat": {"steps": 6, "learning_rate": 1e-2, "max_tokens": 16},
        "rl": {"steps": 2, "learning_rate": 1e-2, "max_tokens": 16},
        "workers": {"report_rollouts": 4},
    }
    with running(tmp_path, model, **tables) as daemon:
        asked = daemon.answer()
        assert asked.status_code == 200 and asked.json()["choices"][0]["finish_reason"] in ("stop", "length")

        cooled = daemon.reheatd("reheat", "--tau", "0.5", "--force", "--wait")
        assert (cooled["status"], cooled["version"]) == ("succeeded", 1), cooled
        lineage = daemon.reheatd("adapters", "show", "1")["lineage"]
        assert lineage["entropy_after"]["mean"] < lineage["entropy_before"]["mean"]

        trained = daemon.reheatd("rl", "--wait")
        assert (trained["status"], trained["version"]) == ("succeeded", 2), trained

        swapped = daemon.answer()
        assert swapped.status_code == 200 and swapped.headers["x-reheatd-version"] == "policy-v2"
        # Both versions still answer under their own names.
        for version in ("policy-v1", "policy-v2", "base"):
            pinned = daemon.http.post(
                "/v1/chat/completions", json={"model": version, "messages": CHAT, "max_tokens": 4}
            )
            assert pinned.status_code == 200, pinned.text


def test_a_template_that_refuses_a_role_fails_the_job_with_the_line_and_the_role(tmp_path: Path) -> None:
    model = build_shape(tmp_path / "model", "gemma3_text", chat_template=STRICT_TEMPLATE)
    plain = {"prompt": "One?", "answer": "a"}
    strict = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}], "answer": "a"}
    lines = [plain | {"prompt": f"Write {number}."} for number in range(59)] + [strict]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "probes.jsonl").write_text("".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(4)))
    tables: dict[str, dict[str, Any]] = {
        "task": {"path": str(tmp_path / "words.jsonl"), "reward": "tests.found_again:reward", "eval_count": 8},
        "entropy": {"probes": str(tmp_path / "probes.jsonl")},
    }
    with running(tmp_path, model, **tables) as daemon:
        submitted = daemon.reheatd("rl")
        job = wait_until(lambda: over(daemon, submitted["job_id"]))
        assert job["status"] == "failed"
        assert "words.jsonl, line 60: " in job["error"] and "roles system, user" in job["error"], job["error"]
        assert daemon.answer().status_code == 200


def over(daemon: Daemon, job: str) -> dict[str, Any] | None:
    """The job, once it is over."""
    found = daemon.http.get(f"/reheatd/v1/jobs/{job}").json()
    return found if found["finished_at"] is not None else None


def test_a_policy_that_vllm_serves_without_adapters_is_refused_by_name(tmp_path: Path) -> None:
    model = build_shape(tmp_path / "model", "gpt2")
    command = [sys.executable, "-m", "cli.main", "serve", "--model", str(model), "--port", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "GPT2LMHeadModel without adapters" in done.stderr and "docs/models.md" in done.stderr
