"""`reheatd serve` with the tiny policy: comes up, survives what kills its parts, leaves nothing behind."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from reheatd.adapters.store import AdapterStore
from reheatd.database import connect
from tests.daemon import PROMPT, Daemon, running
from tests.integration.exposure import (
    assert_no_secret_is_shown,
    assert_only_the_gateway_could_be_reached,
    assert_the_engine_answers_only_the_daemon,
)
from tests.random_adapter import random_adapter
from tests.waiting import HANGS_S, wait_until


@pytest.fixture(scope="module")
def folder(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose promoted version is 1."""
    folder = tmp_path_factory.mktemp("serve")
    with contextlib.closing(connect(folder / "data" / "reheatd.sqlite3")) as db:
        store = AdapterStore(folder / "data" / "adapters", db)
        adapter = random_adapter(folder / "adapter", tiny_policy)
        asyncio.run(store.publish(adapter, parent=0, base_model="tiny", base_digest="", kind="imported"))
        store.promote(1)
    return folder


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_serves_the_promoted_version_and_kill_9_leaves_no_child(
    folder: Path, tiny_policy: Path, tmp_path: Path
) -> None:
    with running(folder, tiny_policy) as daemon:
        answer = daemon.answer()
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-reheatd-version"] == "policy-v1"
        assert answer.json()["choices"][0]["message"]["content"] is not None
        assert daemon.http.get("/health").json() == {"status": "ready"}
        status = wait_until(lambda: _if_measured(daemon.reheatd("status")))
        assert status["promoted"] == {"version": 1, "name": "policy-v1"}
        assert [engine["ok"] for engine in status["engines"]] == [True] and status["broker"]["ok"]
        assert status["requests"] == {"total": 1, "failed": 0}
        asked = {"route": "/v1/chat/completions", "source": "client", "version": "policy-v1", "status": "200"}
        assert _metric(daemon, "reheatd_requests_total", asked) == 1
        assert _metric(daemon, "reheatd_verdict", {"verdict": status["verdict"]}) == 1
        assert _metric(daemon, "process_resident_memory_bytes", {}) > 1 << 20
        assert [adapter["state"] for adapter in daemon.reheatd("adapters", "list")["adapters"]] == [
            "retired",
            "promoted",
        ]
        assert json.loads((daemon.data_dir / "daemon.json").read_text())["pid"] == daemon.process.pid

        second = subprocess.run([*daemon.command], capture_output=True, text=True)
        assert second.returncode == 2
        assert str(daemon.process.pid) in json.loads(second.stdout)["error"]["message"]

        tree = wait_until(lambda: _if_complete(daemon.tree()))
        assert_only_the_gateway_could_be_reached(daemon)
        assert_the_engine_answers_only_the_daemon(daemon)
        assert_no_secret_is_shown(daemon)
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
        wait_until(lambda: not alive(tree))


def test_the_next_serve_carries_on_and_an_engine_that_dies_comes_back(folder: Path, tiny_policy: Path) -> None:
    with running(folder, tiny_policy, workers={"count": 0}) as daemon:
        assert daemon.answer().headers["x-reheatd-version"] == "policy-v1"

        (engine,) = [process for process in daemon.tree() if "reheatd.engine.server" in process.cmdline()[3:4]]
        engine.kill()
        engine.wait()
        waited = daemon.answer()  # by a request that comes while the engine restarts
        assert (waited.status_code, waited.headers["x-reheatd-version"]) == (200, "policy-v1")
        assert "the engine was ended by SIGKILL" in daemon.log

        assert daemon.reheatd("adapters", "rollback")["version"] == 0
        assert daemon.answer().headers["x-reheatd-version"] == "policy-v0"
        assert _metric(daemon, "reheatd_swaps_total", {"result": "promoted"}) == 1

        tree = daemon.tree()
        finished = _stream_during(daemon, lambda: daemon.process.send_signal(signal.SIGTERM))
        assert daemon.process.wait() == 0
        assert finished == ["length"]
        assert not alive(tree)
        assert not (daemon.data_dir / "daemon.json").exists()


def test_a_port_in_use_starts_nothing(tiny_policy: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        data_dir = tmp_path / "data"
        options = ["--model", str(tiny_policy), "--port", str(port), "--data-dir", str(data_dir)]
        done = subprocess.run([sys.executable, "-m", "cli.main", "serve", *options], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"port {port} " in done.stderr
    assert "--port" in done.stderr
    assert not data_dir.exists()


def test_an_engine_that_cannot_start_leaves_nothing_running(tiny_policy: Path, tmp_path: Path) -> None:
    options = ["--model", str(tiny_policy), "--port", "0", "--data-dir", str(tmp_path)]
    environment = {**os.environ, "REHEATD_ENGINE__EXTRA_ARGS": '["--no-such-flag"]'}
    command = [sys.executable, "-m", "cli.main", "serve", *options]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    _, stderr = process.communicate()
    assert process.returncode == 2
    assert "--no-such-flag" in stderr.splitlines()[-1]
    assert "engine.log" in stderr.splitlines()[-1]
    named = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert not named


def _stream_during(daemon: Daemon, act: Callable[[], None]) -> list[str]:
    """Finish reasons of a stream during which `act` was called, after its first token."""
    reasons: list[str] = []
    began = threading.Event()

    def stream() -> None:
        body = {"model": "policy", "messages": PROMPT, "max_tokens": 150, "stream": True, "ignore_eos": True}
        with daemon.http.stream("POST", "/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line.removeprefix("data: "))["choices"]
                    reasons.extend(choice["finish_reason"] for choice in choices if choice["finish_reason"])
                    began.set()

    thread = threading.Thread(target=stream)
    thread.start()
    assert began.wait(HANGS_S)
    act()
    thread.join()
    return reasons


def _metric(daemon: Daemon, name: str, labels: dict[str, str]) -> float:
    families = text_string_to_metric_families(daemon.http.get("/metrics").text)
    (value,) = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return value


def _if_measured(status: dict[str, Any]) -> dict[str, Any] | None:
    return status if status["entropy"] else None


def _if_complete(tree: list[psutil.Process]) -> list[psutil.Process] | None:
    """The daemon's children once each kind of them is there."""
    commands = [" ".join(process.cmdline()) for process in tree]
    kinds = ("valkey-server", "reheatd.engine.server", "-m workers")
    return tree if all(any(kind in command for command in commands) for kind in kinds) else None
