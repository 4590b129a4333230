"""Every command that shows something does so at any width, without colours, in a pipe and in plain ASCII."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from cli import render
from reheatd.client import Client
from reheatd.jobs.contracts import RLRequest
from tests.unit.status_figures import status
from tests.unit.test_cli_adapter_files import Daemon
from tests.unit.test_cli_commands import CURVES, fake_daemon, reheatd
from tests.unit.test_cli_rollouts import BODY

COMMANDS = [
    ["status"],
    ["entropy"],
    ["entropy", "live"],
    ["adapters", "list"],
    ["adapters", "show", "1"],
    ["compare", "1", "2"],
    ["jobs", "list"],
    ["rl", "--steps", "3", "--dry-run"],
    ["journal"],
    ["open"],
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Iterator[str]:
    with Daemon(tmp_path_factory.mktemp("daemon"), tiny_policy) as daemon:
        client = Client(daemon.url)
        client.submit_job(RLRequest(steps=3))
        for _ in range(3):
            client.measure()
        yield daemon.url


@pytest.fixture(autouse=True)
def without_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def fits(text: str, width: int) -> bool:
    """Whether no line is longer, but for words that are longer than a line."""
    return all(cell_len(line.rstrip()) <= width or " " not in line.strip() for line in text.splitlines())


@pytest.mark.parametrize("width", [40, 57, 80, 200])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_fit_any_width(command: list[str], width: int, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.console, "_width", width)
    done = reheatd(*command, "--url", url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "\x1b" not in done.stdout
    assert fits(done.stdout, width), done.stdout


@pytest.mark.parametrize("width", [40, 200])
def test_a_full_status_and_long_texts_fit_too(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.console, "_width", width)
    answers: dict[str, list[tuple[int, Any]]] = {
        "GET /reheatd/v1/status": [(200, status().model_dump(mode="json"))],
        "GET /reheatd/v1/jobs/j1/curves": [(200, CURVES)],
        "GET /reheatd/v1/jobs/j1/rollouts?last=10": [(200, BODY)],
    }
    with fake_daemon(**answers) as url:
        for command in (["status"], ["jobs", "curves", "j1"], ["rollouts", "j1"]):
            done = reheatd(*command, "--url", url)
            assert done.returncode == 0, done.stderr
            assert fits(done.stdout, width), done.stdout


def run(url: str, command: list[str], **environment: str) -> "subprocess.CompletedProcess[bytes]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    argv = [sys.executable, "-m", "cli.main", *command, "--url", url]
    return subprocess.run(argv, env=inherited | environment, capture_output=True)


@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}]
)
def test_what_a_terminal_cannot_show_is_replaced_by_what_it_can(url: str, environment: dict[str, str]) -> None:
    for command in (["entropy"], ["status"]):
        done = run(url, command, **environment)
        assert done.returncode == 0, done.stderr
        assert re.search(rb"[^\x00-\x7f]", done.stdout) is None and b"\\u" not in done.stdout
    plain = done.stdout if command == ["entropy"] else run(url, ["entropy"], **environment).stdout
    assert b"o" in plain and b"+---" in plain  # a plot is still one


def test_an_answer_in_any_script_is_shown_as_well_as_the_terminal_can() -> None:
    told = {
        **BODY,
        "rollouts": [{**BODY["rollouts"][0], "completion": "\N{GREEK SMALL LETTER PI} \u2248 3 \U0001f600"}],
    }
    with fake_daemon(**{"GET /reheatd/v1/jobs/j1/rollouts?last=10": [(200, told)]}) as url:
        done = run(url, ["rollouts", "j1"], LC_ALL="C")
        whole = run(url, ["rollouts", "j1"], PYTHONIOENCODING="utf-8")
        as_json = run(url, ["rollouts", "j1", "--json"], LC_ALL="C")
    assert done.returncode == 0 and b"\\u03c0 \\u2248 3 \\U0001f600" in done.stdout
    assert "π ≈ 3 😀".encode() in whole.stdout
    assert b"\\ud83d\\ude00" in as_json.stdout


def test_no_color_means_none_even_on_a_terminal(url: str) -> None:
    import pty

    read, write = pty.openpty()
    argv = [sys.executable, "-m", "cli.main", "adapters", "list", "--url", url]
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "100"}
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, env=environment)
    os.close(write)
    text = os.read(read, 65536).decode()
    os.close(read)
    assert done.returncode == 0, done.stderr
    colours = [code for found in re.findall(r"\x1b\[([\d;]*)m", text) for code in found.split(";")]
    assert "policy-v1" in text and not [code for code in colours if code[:1] in ("3", "4") and len(code) == 2]
