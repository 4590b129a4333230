"""Every error code is explained, by `reheatd explain` and on the page of the docs, from one source."""

import ast
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from cli.error_codes import error_codes
from docsite.errors import errors_page
from tests.unit.test_cli_commands import fake_daemon, reheatd

ROOT = Path(__file__).parents[2]


def defined() -> dict[str, str | None]:
    """Kinds of errors in the code, by name, each with its code; None if it has that of its base."""
    classes: dict[str, tuple[list[str], str | None]] = {}
    for package in ("reheatd", "workers", "cli"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                    classes[node.name] = bases, _code_of(node)
    found = {"ReheatdError"}
    while more := {name for name, (bases, _) in classes.items() if found & set(bases)} - found:
        found |= more
    return {name: classes[name][1] for name in found}


def _code_of(node: ast.ClassDef) -> str | None:
    for line in node.body:
        if isinstance(line, ast.Assign | ast.AnnAssign) and isinstance(line.value, ast.Constant):
            target = line.targets[0] if isinstance(line, ast.Assign) else line.target
            if isinstance(target, ast.Name) and target.id == "code":
                return str(line.value.value)
    return None


def test_every_code_in_the_source_is_explained() -> None:
    written = {code for code in defined().values() if code is not None}
    assert len(written) > 30
    assert {each.code for each in error_codes()} == written


def test_every_code_says_what_it_means_and_what_to_do() -> None:
    for each in error_codes():
        assert each.meaning and all(text.endswith(".") for text in each.meaning), each
        assert each.way_out.endswith("."), f"{each.code}: no class with this code says what to do"


def test_the_page_says_what_the_command_says() -> None:
    page = errors_page()
    for each in error_codes():
        said = reheatd("explain", each.code)
        assert said.returncode == 0
        text = " ".join(said.stdout.split())
        assert each.way_out in text and " ".join(each.meaning) in text
        assert f"## {each.code}\n" in page and each.way_out in page
        assert f"exit code {each.exit_code}" in text and f"HTTP status {each.status}" in text


def test_all_codes_are_listed() -> None:
    listed = json.loads(reheatd("explain", "--json").stdout)
    assert [each["code"] for each in listed] == [each.code for each in error_codes()]
    shown = reheatd("explain").stdout
    assert all(each.code in shown for each in error_codes())


def test_an_unknown_code_is_refused_with_a_near_one() -> None:
    done = reheatd("explain", "port_in_us")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'port_in_us'" in done.stderr and "port_in_use?" in done.stderr


def test_the_code_of_the_daemons_answer_reaches_the_user() -> None:
    failed = {"error": {"message": "the weights did not load", "type": "server_error", "code": "delivery_failed"}}
    with fake_daemon(**{"POST /reheatd/v1/adapters/1/promote": [(502, failed)]}) as url:
        done = reheatd("adapters", "promote", "1", "--json", "--url", url)
    assert json.loads(done.stdout)["error"]["code"] == "delivery_failed"


def test_the_command_that_says_more_is_named_on_a_terminal() -> None:
    reader, terminal = pty.openpty()
    command = [sys.executable, "-m", "cli.main", "status", "--url", "http://127.0.0.1:9"]
    assert subprocess.run(command, stderr=terminal, cwd=ROOT).returncode == 2
    first, second = os.read(reader, 10_000).decode().splitlines()
    assert "no daemon answers" in first
    assert second == "reheatd: `reheatd explain daemon_unreachable` says more"
    os.close(reader)
    os.close(terminal)
