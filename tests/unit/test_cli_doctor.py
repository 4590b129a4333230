"""`reheatd doctor`: what it finds, and what it says to do first."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import doctor
from reheatd.config import Settings
from tests.unit.test_cli_commands import reheatd


def test_doctor_reports_in_json_what_it_shows() -> None:
    done = reheatd("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["python"]["level"] == "ok"
    assert {"torch", "vllm", "broker", "policy", "memory", "disk", "GPU", "CPU LoRA kernels"} <= set(checks)
    assert all(check["fix"] for check in checks.values() if check["level"] != "ok")
    assert done.returncode == any(check["level"] == "missing" for check in checks.values())


@pytest.mark.parametrize(
    ("configuration", "name", "found", "fix"),
    [
        ('[task]\npath = "openai/gsm8k"', "task", "", ""),
        ('[task]\npath = "{folder}/none.jsonl"', "task", "none.jsonl", "[task]"),
        ('[task]\npath = "{folder}/bad.jsonl"', "task", "bad.jsonl, line 1", "[task]"),
        ('[task]\nreward = "nobody_has_it"', "task", "nobody_has_it", "numeric"),
        ('[policy]\nmodel = "{folder}"', "chat template", "no chat template", 'policy.chat_template = "raw"'),
    ],
)
def test_doctor_says_what_is_wrong_with_task_and_template(
    tmp_path: Path, configuration: str, name: str, found: str, fix: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "1 + 1"}\n')
    (tmp_path / "reheatd.toml").write_text(configuration.replace("{folder}", str(tmp_path)))
    done = reheatd("doctor", "--json", "--config", str(tmp_path / "reheatd.toml"))
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks[name]["level"] == ("missing" if found else "ok")
    assert found in checks[name]["detail"] and fix in checks[name]["fix"]


def test_doctor_says_what_to_do_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str, level: doctor.Level) -> Callable[[Settings], doctor.Check]:
        return lambda _: doctor.Check(name, level, "", "" if level == "ok" else f"mend {name}")

    checks = (found("disk", "note"), found("python", "ok"), found("torch", "missing"))
    monkeypatch.setattr(doctor, "CHECKS", checks)
    lines = reheatd("doctor").stdout.splitlines()
    assert [line for line in lines if line[:1].isdigit()] == [
        "1. torch: mend torch",
        "2. disk: mend disk (not needed, but better)",
    ]


def test_doctor_shows_commands_as_they_are_to_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    shown = reheatd("doctor").stdout
    assert "reheatd[worker]" in shown
    assert "reheatd[engine-" in shown
