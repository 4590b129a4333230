"""The command line against a daemon's answers: JSON is valid, errors are one line, exit codes are right."""

import contextlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
import unittest.mock
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.text import Text

from cli import render
from cli.main import main
from reheatd.adapters.lineage import Lineage
from reheatd.api.schemas import LearningView, VersionView
from reheatd.jobs.report import JobReport
from reheatd.runlog.signals import SignalFigures
from tests.unit.report_support import job_report, rollout_row

COMMANDS = [
    ["status"],
    ["entropy"],
    ["entropy", "live"],
    ["entropy", "plan", "--width", "0.1"],
    ["reheat", "--tau", "1.5"],
    ["rl"],
    ["adapters", "list"],
    ["adapters", "show", "1"],
    ["adapters", "promote", "1"],
    ["adapters", "rollback"],
    ["jobs", "list"],
    ["jobs", "show", "j1"],
    ["jobs", "watch", "j1"],
    ["jobs", "curves", "j1"],
    ["jobs", "rollouts", "j1"],
    ["jobs", "cancel", "j1"],
    ["jobs", "approve", "j1"],
    ["control", "resume"],
    ["journal"],
]

JOB: dict[str, Any] = {
    "job_id": "j1",
    "kind": "reheat",
    "status": "queued",
    "trigger": "manual",
    "created_at": time.time(),
    "parent_version": 0,
    "request": {"kind": "reheat", "tau": 1.5},
}


ASKING: dict[str, Any] = {
    "status": "awaiting_approval",
    "version": 1,
    "gates": [
        {"name": "entropy", "outcome": "passed", "detail": "0.9 [0.8, 1.0]"},
        {"name": "accuracy", "outcome": "no_evidence", "detail": "raise task.eval_count"},
    ],
}
"""What a job adds to `JOB` that waits for approval of its version."""


class FakeDaemon(http.server.BaseHTTPRequestHandler):
    """Answers what a test put into `answers`, and records what it was asked."""

    answers: ClassVar[dict[str, list[tuple[int, Any]]]] = {}
    asked: ClassVar[list[tuple[str, Any]]] = []

    def do_GET(self) -> None:
        self._answer("GET", None)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer("POST", json.loads(raw) if raw and raw != b"null" else None)

    def _answer(self, method: str, body: Any) -> None:
        route = f"{method} {self.path}"
        self.asked.append((route, body))
        queue = self.answers[route]
        status, answer = queue.pop(0) if len(queue) > 1 else queue[0]
        raw = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def fake_daemon(**answers: list[tuple[int, Any]]) -> Iterator[str]:
    FakeDaemon.answers, FakeDaemon.asked = answers, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeDaemon) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def reheatd(*arguments: str) -> Done:
    """What the command prints and exits with; in this process, since a new one takes a second to import everything."""
    out, err = io.StringIO(), io.StringIO()
    with (
        unittest.mock.patch.object(sys, "argv", ["reheatd", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as leaving,
    ):
        main()
    assert isinstance(leaving.value.code, int)
    return Done(leaving.value.code, out.getvalue(), err.getvalue())


def test_the_installed_command_runs() -> None:
    command = [str(Path(sys.executable).with_name("reheatd")), "status", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_the_shell_completes_commands() -> None:
    words = {"COMP_WORDS": "reheatd adapters roll", "COMP_CWORD": "2", "_REHEATD_COMPLETE": "complete_bash"}
    command = [str(Path(sys.executable).with_name("reheatd"))]
    done = subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True)
    assert done.stdout.split() == ["rollback"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_daemon_one_line_says_what_to_do(command: list[str]) -> None:
    done = reheatd(*command, "--url", "http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "http://127.0.0.1:9" in line
    assert "`reheatd serve`" in line


def test_with_json_an_error_is_an_object_on_stdout() -> None:
    done = reheatd("status", "--json", "--url", "http://127.0.0.1:9")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout)["error"]["code"] == "daemon_unreachable"


@pytest.mark.parametrize(
    "arguments",
    [
        ["reheat", "--tau", "nan"],
        ["reheat", "--tau", "0"],
        ["reheat", "--tau", "-1"],
        ["reheat", "--tau", "inf"],
        ["reheat", "--tau", "warm"],
        ["reheat", "--target-ratio", "0"],
        ["reheat", "--steps", "0"],
        ["reheat", "--teacher", "wise"],
        ["rl", "--steps", "-3"],
        ["rl", "--max-tokens", "many"],
        ["reheat", "--max-tokens", "0"],
        ["adapters", "show", "newest"],
        ["serve", "--mode", "sometimes"],
        ["serve", "--config", "no-such.toml"],
        ["worker"],
        ["status", "--url", "nonsense"],
        ["dance"],
        ["jobs", "show"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_that_names_it(arguments: list[str]) -> None:
    done = reheatd(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert any(word in line for word in ("--broker-url", "Missing argument 'JOB'", *arguments[1:], arguments[-1]))


def test_a_model_that_does_not_exist_leaves_nothing_behind(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    done = reheatd("serve", "--model", "no-such-model", "--port", "0", "--data-dir", str(data_dir))
    assert done.returncode == 2
    assert "'no-such-model'" in done.stderr.splitlines()[-1]
    assert not data_dir.exists()


def test_the_daemons_own_words_reach_the_user() -> None:
    refused = {"error": {"message": "version 7 does not exist; there are policy-v0", "type": "x", "code": "not_found"}}
    with fake_daemon(**{"GET /reheatd/v1/adapters/7": [(404, refused)]}) as url:
        done = reheatd("adapters", "show", "policy-v7", "--url", url)
    assert done.returncode == 2
    assert done.stderr == "reheatd: version 7 does not exist; there are policy-v0\n"


@pytest.mark.parametrize("report", [job_report(), None])
def test_a_version_is_shown_with_what_its_job_changed(report: JobReport | None) -> None:
    lineage = Lineage(version=1, parent=0, base_model="m", base_digest="0", digest="0", kind="reheat", job_id="j1")
    folder = None if report is None else Path("/data/policy-v1/report")
    info = VersionView(version=1, name="policy-v1", state="promoted", lineage=lineage, report=report, report_dir=folder)
    with fake_daemon(**{"GET /reheatd/v1/adapters/1": [(200, info.model_dump(mode="json"))]}) as url:
        done = reheatd("adapters", "show", "1", "--url", url)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    facts = ("pass@4 71% [61%, 81%] -> 82% [72%, 92%]", "top 10 93% shared, with mass 90%", "0.123 nats per token")
    more = ("CKA 0.9876 in the last layer", "token 57.0 -> 50.0", "0.600 -> 0.600", "/data/policy-v1/report/report.md")
    for fact in (*facts, *more):
        assert (fact in shown) == (report is not None)


def test_a_job_is_shown_with_all_its_metrics_and_its_attempt() -> None:
    metrics = {f"m{number}": number / 10 for number in range(9)}
    with fake_daemon(**{"GET /reheatd/v1/jobs/j1": [(200, JOB | {"metrics": metrics, "attempt": 2})]}) as url:
        done = reheatd("jobs", "show", "j1", "--url", url)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert all(f"{name} {value:.4g}" in shown for name, value in metrics.items())
    assert "attempt 2" in shown


def test_a_job_that_asks_says_why_and_how_to_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {**JOB, **ASKING}
    with fake_daemon(
        **{"GET /reheatd/v1/jobs/j1": [(200, job)], "GET /reheatd/v1/jobs": [(200, {"jobs": [job]})]}
    ) as url:
        shown = " ".join(reheatd("jobs", "show", "j1", "--url", url).stdout.split())
        monkeypatch.setattr(render.console, "width", 200)
        listed = " ".join(reheatd("jobs", "list", "--url", url).stdout.split())
    assert "gate entropy passed 0.9 [0.8, 1.0]" in shown and "gate accuracy no evidence raise task.eval_count" in shown
    assert "`reheatd jobs approve j1` promotes the version" in shown
    assert "awaiting_approval policy-v0 policy-v1 no evidence: accuracy" in listed


def test_a_job_that_an_earlier_version_stored_can_still_be_shown() -> None:
    job = {**JOB, "status": "rejected", "gates": [{"name": "accuracy", "passed": False, "detail": "0.40 < 0.55"}]}
    with fake_daemon(**{"GET /reheatd/v1/jobs/j1": [(200, job)]}) as url:
        shown = reheatd("jobs", "show", "j1", "--url", url).stdout
    assert "gate accuracy failed 0.40 < 0.55" in " ".join(shown.split())


CURVES = {
    "job_id": "j1",
    "points": [
        {"step": 0, "metrics": {"accuracy": 0.5}},
        {"step": 1, "metrics": {"loss": 0.25, **{f"metric_{number}": 1 / 3 for number in range(9)}}},
    ],
}


def test_a_jobs_curves_are_a_table_with_the_columns_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.console, "_width", 60)
    with fake_daemon(**{"GET /reheatd/v1/jobs/j1/curves": [(200, CURVES)]}) as url:
        done = reheatd("jobs", "curves", "j1", "--url", url)
        one = reheatd("jobs", "curves", "j1", "--metric", "metric_8", "--url", url)
        raw = reheatd("jobs", "curves", "j1", "--metric", "accuracy", "--json", "--url", url)
        wrong = reheatd("jobs", "curves", "j1", "--metric", "los", "--url", url)
    header, first, second, *_ = [line.split() for line in done.stdout.splitlines()]
    assert header == ["step", "accuracy", "loss", "metric_0", "metric_1", "metric_2", "metric_3"]
    assert (first, second) == (["0", "0.5"], ["1", "0.25", *["0.3333"] * 4])
    assert "shows the others: metric_4, metric_5, metric_6, metric_7, metric_8" in " ".join(done.stdout.split())
    assert [line.split() for line in one.stdout.splitlines()] == [["step", "metric_8"], ["0"], ["1", "0.3333"]]
    assert json.loads(raw.stdout) == [{"step": 0, "metrics": {"accuracy": 0.5}}, {"step": 1, "metrics": {}}]
    assert wrong.returncode == 2 and "--metric los" in wrong.stderr and "loss" in wrong.stderr


def test_a_job_without_curves_says_so() -> None:
    empty = {"job_id": "j1", "points": []}
    with fake_daemon(**{"GET /reheatd/v1/jobs/j1/curves": [(200, empty)]}) as url:
        done = reheatd("jobs", "curves", "j1", "--metric", "loss", "--url", url)
    assert (done.returncode, done.stdout) == (0, "j1 has reported no metrics yet\n")


def test_a_jobs_rollouts_can_be_read() -> None:
    rows = [rollout_row(0, 0.0), rollout_row(1)]
    rows[0].completion += "\n\x1b[2Jdone"
    body = {"job_id": "j1", "total": 40, "rollouts": [row.model_dump(mode="json") for row in rows]}
    answers = {
        "GET /reheatd/v1/jobs/j1/rollouts?last=10": [(200, body)],
        "GET /reheatd/v1/jobs/j1/rollouts?last=2&step=3": [(200, {**body, "rollouts": []})],
    }
    with fake_daemon(**answers) as url:
        done = reheatd("jobs", "rollouts", "j1", "--url", url)
        raw = reheatd("jobs", "rollouts", "j1", "--json", "--url", url)
        none = reheatd("jobs", "rollouts", "j1", "--step", "3", "--last", "2", "--url", url)
    assert done.stdout.splitlines() == [
        "step 0  7 tokens  mean log p -0.250  reward 0  advantage -0.5  job-j1.1-0",
        "user: 2 + [2]",
        "It is [bold]4",
        "\N{REPLACEMENT CHARACTER}[2Jdone",
        "",
        "step 1  7 tokens, cut off  mean log p -0.250  job-j1.1-1",
        "user: 2 + [2]",
        "It is [bold]4",
        "",
        "2 of the 40 rollouts that are kept of j1",
    ]
    assert json.loads(raw.stdout) == body["rollouts"]
    assert none.stdout == "0 of the 40 rollouts that are kept of step 3 of j1\n"


def test_resume_says_what_goes_on() -> None:
    pause = {"what": "rounds", "since": time.time(), "why": "rl-1 and rl-2 ended in the same way: out of memory"}
    with fake_daemon(
        **{"POST /reheatd/v1/control/resume": [(200, {"resumed": [pause]}), (200, {"resumed": []})]}
    ) as url:
        first, second = (reheatd("control", "resume", "--url", url) for _ in range(2))
    assert "rounds go on; they were paused because rl-1 and rl-2" in " ".join(first.stdout.split())
    assert (second.returncode, second.stdout) == (0, "nothing is paused\n")


def test_the_learning_signal_is_one_line_and_its_notes() -> None:
    trend = SignalFigures(metric="reward", first=0.1, last=0.5)
    figures = {"steps": 40, "groups": 4, "varied": 0.5, "all_fail": 3, "all_pass": 0.5}
    view = LearningView(**figures, trends={"reward": trend}, notes=["the gradient norm spikes [twice]"])
    line, note = (Text.from_markup(each).plain for each in render.learning(view))
    assert line == (
        "0.5 of 4.0 groups vary per step, 3.0 fail and 0.5 pass as a whole, reward 0.1 -> 0.5 (40 steps of RL)"
    )
    assert note == "the gradient norm spikes [twice]" and render.learning(None) == []


def test_something_else_on_the_port_is_recognised() -> None:
    with fake_daemon(**{"GET /reheatd/v1/jobs": [(200, "<html>")]}) as url:
        done = reheatd("jobs", "list", "--url", url)
    assert done.returncode == 2
    assert "is not reheatd" in done.stderr


def test_reheat_sends_only_what_was_asked_for() -> None:
    with fake_daemon(**{"POST /reheatd/v1/jobs": [(202, JOB)]}) as url:
        done = reheatd("reheat", "--tau", "1.5", "--steps", "9", "--teacher", "live", "--json", "--url", url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["job_id"] == "j1"
    expected = {"kind": "reheat", "tau": 1.5, "steps": 9, "teacher": "live"}
    assert FakeDaemon.asked == [("POST /reheatd/v1/jobs", expected)]


@pytest.mark.parametrize(
    ("last", "code", "said"),
    [
        ({"status": "succeeded", "version": 1}, 0, "policy-v1"),
        ({"status": "failed", "error": "the worker ran out of memory"}, 1, "j1 failed: the worker ran out of memory"),
        (
            {"status": "rejected", "gates": [{"name": "accuracy", "outcome": "failed", "detail": "0.40 < 0.55"}]},
            1,
            "gate accuracy: 0.40 < 0.55",
        ),
        (
            ASKING,
            1,
            "gate accuracy: raise task.eval_count. `reheatd jobs approve j1` promotes the version, `reheatd jobs "
            "cancel j1` rejects it",
        ),
    ],
)
def test_wait_follows_the_job_to_its_end(last: dict[str, Any], code: int, said: str) -> None:
    running = {**JOB, "status": "running", "phase": "training", "step": 3, "steps": 9, "metrics": {"loss": 0.5}}
    answers = {
        "POST /reheatd/v1/jobs": [(202, JOB)],
        "GET /reheatd/v1/jobs/j1": [(200, running), (200, running), (200, {**JOB, **last})],
    }
    with fake_daemon(**answers) as url:
        done = reheatd("reheat", "--tau", "1.5", "--wait", "--url", url)
        quiet = reheatd("reheat", "--tau", "1.5", "--wait", "--json", "--url", url)
    assert (done.returncode, quiet.returncode) == (code, code)
    assert said in (done.stderr if code else done.stdout)
    answer = json.loads(quiet.stdout)
    assert answer["error"]["code"] == "job_failed" if code else answer["status"] == "succeeded"
