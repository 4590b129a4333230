"""What the shell completes from the daemon, and that it waits for none."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.adapters import app
from cli.completion import complete_job, complete_version
from tests.unit.test_cli_commands import JOB, fake_daemon
from tests.unit.test_cli_compare import answers


def context(url: str) -> typer.Context:
    made = typer.Context(typer.main.get_command(app))
    made.params["url"] = url
    return made


def test_versions_and_jobs_are_completed_with_what_they_are() -> None:
    jobs: list[dict[str, Any]] = [JOB, {**JOB, "job_id": "rl-2", "kind": "rl", "request": {"kind": "rl"}}]
    with fake_daemon(**answers(**{"GET /reheatd/v1/jobs": [(200, {"jobs": jobs})]})) as url:
        assert complete_version(context(url), "policy-v") == [
            ("policy-v3", "retired, rl"), ("policy-v2", "retired, rl"), ("policy-v1", "retired, reheat"),
        ]  # fmt: skip
        assert complete_version(context(url), "b") == [("base", "retired, the base model")]
        assert complete_job(context(url), "") == [("rl-2", "rl, queued"), ("j1", "reheat, queued")]


@pytest.mark.parametrize("answer", [(403, {"error": {"message": "no", "code": "permission_denied"}}), (200, "<html>")])
def test_what_goes_wrong_completes_nothing(answer: tuple[int, Any]) -> None:
    with fake_daemon(**{"GET /reheatd/v1/adapters": [answer]}) as url:
        assert complete_version(context(url), "") == []
    assert complete_job(context("http://127.0.0.1:9"), "") == []
    assert complete_job(context("nonsense"), "") == []


def test_a_daemon_that_does_not_answer_holds_nobody_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert complete_version(context(f"http://127.0.0.1:{silent.getsockname()[1]}"), "") == []
        assert time.monotonic() - began < 5.0  # the limit is half a second for each of two waits


def test_the_shell_gets_words_of_the_daemon_at_the_address_in_the_environment() -> None:
    words = {"COMP_WORDS": "reheatd adapters show policy-v2", "COMP_CWORD": "3", "_REHEATD_COMPLETE": "complete_bash"}
    command = [str(Path(sys.executable).with_name("reheatd"))]
    with fake_daemon(**answers()) as url:
        environment = {**os.environ, **words, "REHEATD_URL": url}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        elsewhere = {**words, "COMP_WORDS": f"reheatd compare 1 --url {url} policy-v3", "COMP_CWORD": "5"}
        named = subprocess.run(command, env={**os.environ, **elsewhere}, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["policy-v2"], "")
    assert (named.stdout.split(), named.stderr) == (["policy-v3"], "")
    away = {**os.environ, **words, "REHEATD_URL": "http://127.0.0.1:9"}
    done = subprocess.run(command, env=away, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")
