"""The command line with any options, files and answers of a daemon: it ends with a known code, without a traceback."""

import contextlib
import http.server
import io
import os
import sys
import threading
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from cli.main import app, main
from tests.unit.properties import ANY_JSON, ANY_TEXT, as_json, files_of, in_time, new_folder, tries

CODES = {0, 1, 2, 3, 130}
"""0 if all is well, 1 for what failed, 2 for bad input, 3 for a run that is not healthy, 130 for an interrupt."""
ARGUMENTS = st.one_of(
    ANY_TEXT, st.sampled_from(["1", "-1", "nan", "1e999", "9" * 5000, "policy-v1", "[/]", "a" * 300, "~none", ".", "/"])
).filter(lambda text: "\0" not in text)
STARTING = {"serve", "worker", "engine", "demo", "reheat-checkpoint"}
"""Commands that start something if they find nothing wrong."""


def leaves(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if getattr(command, "invoke_without_command", False):
                yield (*path, name), command
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(leaves(typer.main.get_command(app)))
LOCAL = [("init",), ("diagnose",), ("entropy", "replay")]
REMOTE = [words for words in COMMANDS if words not in LOCAL and words[0] not in STARTING | {"doctor"}]
STATUSES = [200, 200, 202, 307, 400, 404, 409, 418, 429, 500, 503]


class AnyDaemon(http.server.BaseHTTPRequestHandler):
    """Answers every request in the way that an example wants."""

    status: ClassVar[int] = 200
    answer: ClassVar[bytes] = b"{}"

    def _reply(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        self.rfile.read(length)
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)
        self.close_connection = True

    do_GET = do_POST = do_DELETE = _reply

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), AnyDaemon) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def argv_of(words: tuple[str, ...], data: st.DataObject, values: st.SearchStrategy[str]) -> list[str]:
    """A command line with some of the command's options, and with its arguments."""
    argv = list(words)
    for parameter in COMMANDS[words].params:
        if parameter.name in ("help", "watch", "wait", "url", "push"):
            continue
        if parameter.param_type_name == "argument":
            argv += ["--", data.draw(values)] if "--" not in argv and data.draw(st.booleans()) else [data.draw(values)]
        elif data.draw(st.integers(0, 3)) == 0 or parameter.required:
            option = parameter.opts[-1]
            argv[len(words) : len(words)] = [option] if parameter.is_flag else [option, data.draw(values)]
    return argv


def run(argv: list[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in `folder`."""
    stdout, stderr = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with (
            unittest.mock.patch.object(sys, "argv", ["reheatd", *argv]),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            in_time(),
        ):
            main()
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code, stdout.getvalue(), stderr.getvalue()
    finally:
        os.chdir(before)
    raise AssertionError("the command did not end")


def check(argv: list[str], folder: Path) -> None:
    code, stdout, stderr = run(argv, folder)
    assert code in CODES, (argv, code, stderr)
    assert "Traceback" not in stdout + stderr
    if code == 2 and "--json" not in argv:
        assert stderr.startswith("reheatd: ") and stderr.count("\n") == 1, (argv, stderr)


@tries(20)
@given(
    data=st.data(), words=st.sampled_from(LOCAL), content=files_of(st.one_of(ANY_TEXT, st.builds(as_json, ANY_JSON)))
)
def test_commands_that_need_no_daemon(data: st.DataObject, words: tuple[str, ...], content: bytes) -> None:
    with new_folder() as folder:
        (folder / "file.jsonl").write_bytes(content)
        values = st.one_of(ARGUMENTS, st.sampled_from([str(folder / "file.jsonl"), str(folder), "file.jsonl/below"]))
        values = values.filter(lambda text: not text.startswith("/") or text.startswith(str(folder)))
        check(argv_of(words, data, values), folder)


@tries(20)
@given(
    data=st.data(),
    words=st.sampled_from(REMOTE),
    body=st.one_of(ANY_JSON.map(as_json), ANY_TEXT),
    status=st.sampled_from(STATUSES),
)
def test_commands_against_any_answer(
    daemon: str, data: st.DataObject, words: tuple[str, ...], body: str, status: int
) -> None:
    AnyDaemon.status, AnyDaemon.answer = status, body.encode("utf-8", "replace")
    with new_folder() as folder:
        check([*argv_of(words, data, ARGUMENTS.filter(lambda text: not text.startswith("/"))), "--url", daemon], folder)


@tries(10)
@given(url=st.one_of(ARGUMENTS, ARGUMENTS.map(lambda text: f"http://{text}"), st.just(f"http://{'a' * 80}.b")))
def test_any_address_of_a_daemon(url: str) -> None:
    with new_folder() as folder, unittest.mock.patch("socket.getaddrinfo", _knows_no_host):
        check(["status", f"--url={url}"], folder)


@tries(15)
@given(data=st.data(), command=st.sampled_from(["serve", "worker", "engine", "demo", "reheat-checkpoint"]))
def test_commands_that_would_start_something(data: st.DataObject, command: str) -> None:
    """The file of the configuration does not exist, so none of them comes to starting something."""
    with new_folder() as folder:
        argv = argv_of((command,), data, ARGUMENTS.filter(lambda text: not text.startswith("/")))
        check(
            [*argv, "--config", "missing.toml"] if "--" not in argv else [command, "--config", "missing.toml"], folder
        )


def _knows_no_host(host: Any, *rest: Any, **more: Any) -> Any:
    """Refuses every name as the system does that has no network, after Python has encoded it."""
    if isinstance(host, str):
        host.encode("idna")
    raise OSError(-2, "Name or service not known")
