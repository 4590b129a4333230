"""What a job would be that is asked for now: the daemon tells, and `--dry-run` shows, and nothing is started."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli import render
from reheatd.api.schemas import JobPreview
from reheatd.jobs.contracts import ReheatSpec, RLSpec
from tests.unit.api_support import ApiWorld, Client, error_of, talk
from tests.unit.test_cli_adapter_files import Daemon
from tests.unit.test_cli_commands import reheatd


def preview_of(folder: Path, body: dict[str, Any], **sections: Any) -> JobPreview:
    found: list[JobPreview] = []

    async def story(client: Client, world: ApiWorld) -> None:
        answer = await client.post("/reheatd/v1/jobs/preview", json=body)
        assert answer.status_code == 200, answer.text
        found.append(JobPreview.model_validate(answer.json()))
        assert (await client.get("/reheatd/v1/jobs")).json()["jobs"] == []
        assert [entry["reason"] for entry in (await client.get("/reheatd/v1/journal")).json()["entries"]] == []
        assert not (world.settings.jobs_dir / found[0].spec.job_id).exists()

    talk(ApiWorld(folder, **sections), story)
    return found[0]


def test_every_option_is_told_whether_it_was_asked_for_or_not(tmp_path: Path) -> None:
    told = preview_of(tmp_path, {"kind": "rl", "steps": 3}, rl={"group_size": 5})
    assert isinstance(told.spec, RLSpec)
    assert (told.spec.steps, told.spec.group_size, told.spec.patience) == (3, 5, 10)
    assert (told.steps, told.jobs_before, told.spec.parent_version) == (3, 0, 0)
    assert told.spec.probes.max_tokens == 64 and told.spec.task.eval_count > 0


def test_a_reheat_is_told_its_target(tmp_path: Path) -> None:
    told = preview_of(tmp_path, {"kind": "reheat", "force": True})
    assert isinstance(told.spec, ReheatSpec)
    assert told.spec.target_entropy == pytest.approx(1.7)  # the thresholds' target


def test_what_a_job_could_not_be_is_refused_as_the_job_would_be(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        for body in ({"kind": "rl", "steps": 0}, {"kind": "reheat", "tau": 1.0, "force": True}, {"kind": "import"}):
            asked = await client.post("/reheatd/v1/jobs", json=body)
            previewed = await client.post("/reheatd/v1/jobs/preview", json=body)
            assert (previewed.status_code, previewed.json()) == (asked.status_code, asked.json())
        world.monitor.max_tokens = None
        answer = await client.post("/reheatd/v1/jobs/preview", json={"kind": "rl"})
        assert answer.status_code == 409 and "baseline" in error_of(answer)["message"]

    talk(ApiWorld(tmp_path), story)


@pytest.fixture
def daemon(tmp_path: Path, tiny_policy: Path) -> Any:
    with Daemon(tmp_path / "data", tiny_policy) as running:
        yield running


def test_a_dry_run_shows_the_options_and_the_plan(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.console, "_width", 160)
    shutil.copytree(daemon.model, daemon.folder / "model")
    done = reheatd("rl", "--steps", "3", "--group-size", "5", "--dry-run", "--url", daemon.url)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "a job of kind rl would start at once from policy-v0; nothing was started"
    assert {"steps 3 as asked", "group_size 5 as asked", "patience 10"} <= set(lines)
    assert any(line.startswith("task.eval_count ") for line in lines)
    assert any(line.startswith("engine ") and "GiB, with a KV cache of" in line for line in lines), lines
    assert any(line.startswith("worker ") and "GiB" in line for line in lines)
    told = json.loads(reheatd("rl", "--steps", "3", "--dry-run", "--json", "--url", daemon.url).stdout)
    assert told["spec"]["steps"] == 3 and told["plan"]["engine_bytes"] > 0 and told["plan_problem"] is None
    assert json.loads(reheatd("jobs", "list", "--json", "--url", daemon.url).stdout) == []


def test_a_dry_run_says_why_there_is_no_plan(tmp_path: Path) -> None:
    told = preview_of(tmp_path, {"kind": "rl"}, engine={"url": "http://127.0.0.1:1"})
    assert told.plan is None and "run elsewhere" in (told.plan_problem or "")


def test_a_dry_run_cannot_be_waited_for() -> None:
    done = reheatd("rl", "--dry-run", "--wait", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2 and "--dry-run starts nothing" in done.stderr
