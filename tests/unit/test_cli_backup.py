"""The command line of what keeps state: back-ups, and messages that no worker could handle."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from cli import render
from reheatd.control.ledger import Ledger
from reheatd.database import connect
from tests.unit.test_cli_commands import JOB, fake_daemon, reheatd


def test_messages_that_no_worker_could_handle_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.console, "width", 200)
    letter = {"time": 1.0, "worker": "w1", "message_id": "rl-1.1", "task": "reheatd.lost", "reason": "no [such] task"}
    with fake_daemon(**{"GET /reheatd/v1/jobs": [(200, {"jobs": [JOB], "dead_letters": [letter]})]}) as url:
        listed = " ".join(reheatd("jobs", "list", "--url", url).stdout.split())
        as_json = json.loads(reheatd("jobs", "list", "--json", "--url", url).stdout)
    assert "1 messages that no worker could handle" in listed and "rl-1.1 reheatd.lost w1" in listed
    assert "no [such] task" in listed and "j1 reheat" in listed
    assert [job["job_id"] for job in as_json] == ["j1"]


def test_a_folder_is_backed_up_and_restored(tmp_path: Path) -> None:
    data, archive, new = tmp_path / "data", tmp_path / "reheatd.tar", tmp_path / "new"
    with closing(connect(data / "reheatd.sqlite3")) as db:
        Ledger(db)
    made = json.loads(reheatd("backup", str(archive), "--data-dir", str(data), "--json").stdout)
    assert made == {"file": str(archive), "bytes": archive.stat().st_size, "versions": [], "promoted": 0}
    assert "policy-v0 is promoted" in " ".join(reheatd("restore", str(archive), "--data-dir", str(new)).stdout.split())
    refused = reheatd("restore", str(archive), "--data-dir", str(new))
    assert refused.returncode == 2 and "is not empty" in refused.stderr and "Traceback" not in refused.stderr
    (new / "reheatd.sqlite3").write_bytes(b"x" * 4096)
    damaged = reheatd("backup", str(archive), "--data-dir", str(new))
    assert damaged.returncode == 2 and damaged.stderr.count("\n") == 1
