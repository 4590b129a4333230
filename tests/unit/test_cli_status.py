"""`reheatd status`: what it says, and that the live screen outlives a daemon that goes away."""

import contextlib
import http.server
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from cli import render
from cli.status_facts import Watched, status_facts
from cli.status_watch import Observer, Pace, one_line
from reheatd.api.schemas import EntropyView, StatusView
from reheatd.client import Client
from tests.unit.status_figures import BASELINE, job, status
from tests.unit.test_cli_commands import FakeDaemon, fake_daemon, reheatd
from tests.waiting import HANGS_S, wait_until

STATUS = "GET /reheatd/v1/status"
EMPTY = EntropyView(baseline=BASELINE, threshold=0.211, max_tokens=48, windows=[], sources=[], learning=None)


def answers(*seen: StatusView) -> dict[str, list[tuple[int, Any]]]:
    return {
        STATUS: [(200, each.model_dump(mode="json")) for each in seen],
        "GET /reheatd/v1/entropy?last=200": [(200, EMPTY.model_dump(mode="json"))],
    }


def shown(view: StatusView, watched: Watched | None = None, width: int = 120) -> str:
    output = io.StringIO()
    Console(width=width, file=output).print(status_facts(view, watched))
    return " ".join(output.getvalue().split())


def test_status_says_why_and_what_comes_next() -> None:
    with fake_daemon(**answers(status())) as url:
        text = " ".join(reheatd("status", "--url", url).stdout.split())
    for fact in (
        "collapsed 2 windows in a row with the upper limit",
        "0.105 [0.092, 0.117] nats per token, 5% of the baseline",
        "2.110 [1.868, 2.352] of the policy itself",
        "collapsed below 0.211 (10% of the baseline), warning below 0.253, too hot above 1.055; a reheat leads to",
        "rl-1a2b3c4d running step 3 of 9, training (rl, follow_up)",
        "waits reheat-5e6f7a8b queued",
        "engine engine-0 ok 2 in flight",
        "workers 1 connected ok",
        "broker down (the broker does not answer; see its log)",
        "17, 1 failed, 2 in flight",
        "next gate the version of rl-1a2b3c4d",
        "measure the entropy of policy-v3 in 1 min 3",
    ):
        assert fact in text, text


def test_a_watched_daemon_shows_more() -> None:
    watched = Watched(entropies=[2.0, 1.0, 0.5, 0.1], left_s=123)
    text = shown(status(), watched)
    assert "█▅▃▁" in text and "0.5 per second, 1.2 s each (95%: 4 s)" in text
    assert "about 2 min 3 s of training left" in text and "at most" not in text
    assert "at most about" in shown(status(job=job(kind="reheat", request={"kind": "reheat"})), watched)


def test_a_line_holds_what_a_log_needs() -> None:
    assert one_line(status()) == (
        "policy-v3  continuing_rl  collapsed, entropy 0.105 [0.092, 0.117]  rl-1a2b3c4d running step 3 of 9  "
        "reheat-5e6f7a8b waits  rounds paused  broker down  entropy cannot be measured: the probes are gone"
    )


def test_the_time_left_follows_the_newest_steps() -> None:
    pace = Pace()
    assert pace.left_s(job(started_at=100.0, step=2, steps=10), 120.0) == 80.0
    for now, step in ((7.0, 2), (10.0, 3), (11.0, 3), (14.0, 4), (18.0, 5)):
        pace.add(now, job(step=step, steps=10))
    assert pace.left_s(job(step=5, steps=10), 0.0) == 20.0
    pace.add(20.0, job(job_id="rl-2", step=1, steps=10))
    assert pace.left_s(job(job_id="rl-2", started_at=None, step=1, steps=10), 0.0) is None
    assert pace.left_s(None, 0.0) is None


def test_the_screen_keeps_what_it_saw_while_the_daemon_is_away() -> None:
    with fake_daemon(**answers(status())) as url:
        observer = Observer(Client(url), status())
        observer.look()
    observer.look()
    with render.console.capture() as capture:
        render.console.print(observer.screen())
    text = " ".join(capture.get().split())
    assert text.startswith("away for 0 s: no daemon answers at") and "what was seen last:" in text
    assert "rl-1a2b3c4d" in text


def test_without_a_first_answer_watching_fails_like_any_command() -> None:
    done = reheatd("status", "--watch", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2 and "`reheatd serve`" in done.stderr


class Watching:
    """`reheatd status --watch` as a process of its own, and what it has printed so far."""

    def __init__(self, url: str, *options: str, terminal: bool) -> None:
        # Whoever starts the tests in the background may have made them, and their children, deaf to Ctrl-C.
        heard = ["env", "--default-signal=INT"]
        command = [*heard, sys.executable, "-m", "cli.main", "status", "--watch", "--url", url, *options]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "60"}
        self.text = ""
        self._read, write = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(command, stdout=write, stderr=write, env=environment)
        os.close(write)
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        with contextlib.suppress(OSError):  # which a terminal raises at its end
            while piece := os.read(self._read, 65536):
                self.text += piece.decode(errors="replace")

    def until(self, *words: str) -> None:
        wait_until(lambda: all(word in self.text for word in words))

    def leave(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(HANGS_S)
        self._thread.join()
        os.close(self._read)
        return code


@contextlib.contextmanager
def coming_and_going(port: int) -> Iterator[str]:
    """A daemon's answers on a port that it had before."""
    FakeDaemon.answers, FakeDaemon.asked = answers(status(promoted={"version": 4, "name": "policy-v4"})), []
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), FakeDaemon) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_outlives_the_daemon_and_ends_with_ctrl_c(terminal: bool) -> None:
    with fake_daemon(**answers(status())) as url:
        watching = Watching(url, terminal=terminal)
        watching.until("policy-v3", "rl-1a2b3c4d")
    watching.until("away")
    with coming_and_going(int(url.rpartition(":")[2])):
        watching.until("policy-v4")
        assert watching.leave() == 0
    assert "Traceback" not in watching.text
    assert ("\x1b[?1049h" in watching.text) == terminal  # a terminal gets a screen of its own, and a pipe plain lines
    if terminal:
        assert watching.text.rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in watching.text
    else:
        lines = watching.text.splitlines()
        assert [line.split("  ")[1].partition(":")[0] for line in lines] == ["policy-v3", "away", "policy-v4"]


def test_in_json_a_watched_daemon_is_an_object_a_second_and_an_error_while_it_is_away() -> None:
    with fake_daemon(**answers(status())) as url:
        watching = Watching(url, "--json", terminal=False)
        watching.until('"promoted"')
    watching.until('"daemon_unreachable"')
    began = time.monotonic()
    assert watching.leave() == 0 and time.monotonic() - began < HANGS_S
    objects = [json.loads(line) for line in watching.text.splitlines()]
    assert StatusView.model_validate(objects[0]).promoted.version == 3
    assert objects[-1]["error"]["code"] == "daemon_unreachable"
