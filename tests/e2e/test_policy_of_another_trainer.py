"""Policies that TRL's own GRPO trainer has collapsed: diagnosed, reheated, continued, and handed back.

One comes as an adapter, one as a whole checkpoint with its base as the reference. RL is paid for repeating itself here,
so it collapses the policy again and again.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from reheatd.engine.client import EngineClient
from tests.daemon import Daemon, running, toml
from tests.engine_process import running_engine
from tests.waiting import wait_until

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
    """Short jobs, and a daemon that is left alone. What counts as collapsed, and how far a reheat goes, is default."""
    task = tmp_path_factory.mktemp("task") / "words.jsonl"
    problems = [{"prompt": f"Write the word number {number}.", "answer": ""} for number in range(96)]
    task.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return {
        "entropy": {"probe_count": 24, "max_tokens": 24},
        "task": {"path": str(task), "reward": "tests.repetition:reward", "eval_count": 8, "eval_samples": 2},
        "gate": {"no_evidence": "pass", "accuracy_tolerance": 1.0},
        "reheat": {"max_tokens": 24, "learning_rate": 5e-4},
        "rl": {"steps": 4, "max_tokens": 24, "group_size": 8, "learning_rate": 2e-3},
        "workers": {"report_rollouts": 4},
        "control": {"rl": "continuous", "cooldown_s": 0.0},
    }


def reheatd(*arguments: str) -> tuple[int, Any]:
    """Exit status and JSON of a command."""
    command = [sys.executable, "-m", "cli.main", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def jobs(daemon: Daemon, *triggers: str) -> list[dict[str, Any]]:
    """The jobs with these triggers that brought a version, the oldest first."""
    found = sorted(daemon.http.get("/reheatd/v1/jobs").json()["jobs"], key=lambda job: job["created_at"])
    over = [job for job in found if job["status"] in ("failed", "rejected", "cancelled")]
    assert not over, f"{over}\n{daemon.log[-4000:]}"
    return [job for job in found if job["trigger"] in triggers and job["status"] == "succeeded"]


def logprobs_of(model: Path, adapter: Path | None = None) -> list[float]:
    """The completion's logprobs with transformers and PEFT."""
    policy: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter is not None:
        policy = PeftModel.from_pretrained(policy, str(adapter))
    ids = torch.tensor([PROMPT + COMPLETION])
    with torch.no_grad():
        logprobs_TV = policy(ids).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
    return logprobs_TV.gather(1, ids[0, len(PROMPT) :, None])[:, 0].tolist()


def logprobs_in_vllm(log: Path, model: Path, adapter: Path | None = None) -> list[float]:
    """The same with vLLM as it is, without anything of reheatd in it."""

    async def score() -> list[float]:
        async with EngineClient(url) as client:
            if adapter is not None:
                await client.load_adapter("exported", adapter)
            return await client.score("base" if adapter is None else "exported", PROMPT, COMPLETION)

    with running_engine(model, log, stock=True, dtype="float32") as url:
        return asyncio.run(score())


def test_an_adapter_is_imported_reheated_continued_and_exported(
    trained: Path, tables: dict[str, dict[str, Any]], tiny_policy: Path, tmp_path: Path
) -> None:
    status, diagnosis = reheatd("diagnose", str(trained / "run"))
    assert (status, diagnosis["verdict"], diagnosis["trainer"]) == (3, "collapsed", "TRL")

    gently = tables["rl"] | {"learning_rate": 1e-4}
    with running(tmp_path, tiny_policy, **tables | {"rl": gently, "control": {"cooldown_s": 0.0}}) as daemon:
        job = daemon.reheatd("adapters", "import", str(trained / "adapter"), "--wait")
        assert (job["status"], job["version"]) == ("succeeded", 1)
        lineage = daemon.reheatd("adapters", "show", "1")["lineage"]
        assert (lineage["kind"], lineage["spec"]["source"]) == ("imported", "adapter")
        assert daemon.answer().headers["x-reheatd-version"] == "policy-v0"
        assert daemon.reheatd("adapters", "promote", "1")["proof"]["tokens"] > 0

        wait_until(lambda: jobs(daemon, "follow_up"))
        (reheat,), (rl,) = jobs(daemon, "collapse"), jobs(daemon, "follow_up")
        assert (reheat["parent_version"], rl["parent_version"], rl["version"]) == (1, 2, 3)
        windows = daemon.reheatd("entropy", "--last", "1000")["windows"]
        assert {window["version"] for window in windows if window["verdict"] == "collapsed"} == {1}
        assert daemon.answer().headers["x-reheatd-version"] == "policy-v3"

        refused = subprocess.run(
            [sys.executable, "-m", "cli.main", "adapters", "import", str(tiny_policy), "--url", daemon.url],
            capture_output=True,
            text=True,
        )
        assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1
        daemon.reheatd("adapters", "export", "3", str(tmp_path / "out"))

    in_peft = logprobs_of(tiny_policy, tmp_path / "out")
    assert logprobs_in_vllm(tmp_path / "vllm.log", tiny_policy, tmp_path / "out") == pytest.approx(in_peft, abs=1e-3)
    assert in_peft != pytest.approx(logprobs_of(tiny_policy, trained / "adapter"), abs=0.1)


def test_a_checkpoint_with_its_reference_is_reheated_and_continued(
    trained: Path, tables: dict[str, dict[str, Any]], tiny_policy: Path, tmp_path: Path
) -> None:
    policy = {"model": str(trained / "checkpoint"), "reference": str(tiny_policy), "max_model_len": 512}
    with running(tmp_path, trained / "checkpoint", **tables | {"policy": policy}) as daemon:
        wait_until(lambda: jobs(daemon, "round"))
        reheat, first_round = jobs(daemon, "collapse", "round")[:2]
        assert (reheat["trigger"], reheat["parent_version"], reheat["version"]) == ("collapse", 0, 1)
        assert (first_round["trigger"], first_round["parent_version"]) == ("round", 1)
        status = daemon.reheatd("status")
        baseline = status["baseline"]["mean"]
        assert baseline > 2.0 and status["baseline_of"] == "reference"
        first = daemon.reheatd("entropy", "--last", "1000")["windows"][0]
        assert first["version"] == 0 and first["estimate"]["high"] < 0.1 * baseline
        lineage = daemon.reheatd("adapters", "show", "1")["lineage"]
        before, reference = (lineage[f"accuracy_{whose}"] for whose in ("before", "base"))
        assert reference["value"] < before["value"]  # only the checkpoint was trained to repeat itself
        daemon.reheatd("adapters", "export", str(first_round["version"]), str(tmp_path / "out"), "--merged")

    merged = logprobs_of(tmp_path / "out")
    assert logprobs_in_vllm(tmp_path / "vllm.log", tmp_path / "out") == pytest.approx(merged, abs=1e-3)


@pytest.fixture(scope="module")
def config(tables: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "reheatd.toml"
    parts = {"policy": {"max_model_len": 512}, "engine": {"kv_cache_bytes": 64 << 20}}
    names = ("entropy", "task", "gate", "reheat", "rl", "workers")
    file.write_text(toml({}, parts | {name: tables[name] for name in names}))
    return file


def test_reheat_checkpoint_hands_back_an_adapter_and_leaves_a_healthy_policy_alone(
    trained: Path, config: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    command = ["reheat-checkpoint", str(tiny_policy), "--config", str(config), "--out", str(tmp_path / "out")]
    status, outcome = reheatd(*command, "--baseline-nats", "2.6")
    assert (status, outcome["outcome"], outcome["folder"]) == (3, "not_collapsed", None)
    assert "of the baseline 2.600" in outcome["reason"] and not list(tmp_path.iterdir())

    status, outcome = reheatd(*command, "--adapter", str(trained / "adapter"))
    assert (status, outcome["outcome"]) == (0, "reheated"), outcome
    assert outcome["entropy"]["high"] < outcome["collapsed_below"] < outcome["entropy_after"]["low"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "report" / "report.md").exists()
    reheated, collapsed = (logprobs_of(tiny_policy, of) for of in (tmp_path / "out", trained / "adapter"))
    assert reheated != pytest.approx(collapsed, abs=0.01)
