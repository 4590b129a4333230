"""`reheatd journal` and `reheatd jobs watch`, against a daemon's answers."""

import json
from typing import Any

import pytest

from cli import render
from tests.unit.test_cli_commands import JOB, fake_daemon, reheatd

ENTRIES: list[dict[str, Any]] = [
    {"id": 1, "time": 1.5e9, "event": "requested", "from_state": "serving", "to_state": "serving",
     "reason": "key ops made", "job_id": None, "version": None, "actor": "ops"},
    {"id": 2, "time": 1.5e9, "event": "transition", "from_state": "collapsed", "to_state": "reheating",
     "reason": "j1 [collapse] dispatched", "job_id": "j1", "version": 1, "actor": None},
    {"id": 3, "time": 1.5e9, "event": "promoted", "from_state": "swapping", "to_state": "swapping",
     "reason": "by j1", "job_id": "j1", "version": 2, "actor": None},
]  # fmt: skip


def test_the_journal_says_what_was_decided_by_whom_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr(render.console, "width", 120)
    answers = {"GET /reheatd/v1/journal?last=50": [(200, {"entries": ENTRIES})]}
    with fake_daemon(**answers) as url:
        done = reheatd("journal", "--url", url)
        of_job = reheatd("journal", "--job", "j1", "--json", "--url", url)
        none = reheatd("journal", "--job", "j9", "--url", url)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines == [
        "when what by why",
        "2017-07-14 02:40:00 requested ops key ops made",
        "2017-07-14 02:40:00 collapsed -> reheating the daemon j1 [collapse] dispatched",
        "2017-07-14 02:40:00 policy-v2 is live the daemon by j1",
    ]
    assert json.loads(of_job.stdout) == ENTRIES[1:]
    assert none.stdout == "nothing about j9 among the newest 50 entries yet\n"


def test_a_job_that_runs_can_be_watched_to_its_end() -> None:
    running = {**JOB, "status": "running", "phase": "training", "step": 3, "steps": 9}
    ends = {**JOB, "status": "failed", "error": "out of memory"}
    with fake_daemon(**{"GET /reheatd/v1/jobs/j1": [(200, running), (200, running), (200, ends)]}) as url:
        done = reheatd("jobs", "watch", "j1", "--url", url)
    assert (done.returncode, done.stderr) == (1, "reheatd: j1 failed: out of memory\n")
