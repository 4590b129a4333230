"""Reward 1 for Python code that passes unit tests, run in a process that can only compute.

See `workers.rewards.sandbox` for the limits, and docs/rewards.md for what they do not stop.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reheatd.errors import BadInputError
from workers.rewards.calling import checked_by
from workers.rewards.fenced import last_block
from workers.rewards.seccomp import supported
from workers.rewards.thinking import said

ROOT = str(Path(__file__).parents[2])
SANDBOX = "from workers.rewards.sandbox import main; main()"


@checked_by(lambda answer: compile(answer, "tests", "exec", dont_inherit=True))
def unit_tests(completion: str, answer: str, record: Mapping[str, Any] | None = None) -> float:
    """Whether the code in `completion`, which is its last fenced block or all of it, passes the tests in `answer`.

    The tests are Python code that sees the code's names: assertions, functions whose name starts with `test`,
    `unittest.TestCase` classes, or all of these.

    A record with an `entry_point`, as in HumanEval, has a prompt that is the beginning of the code: imports, helpers,
    and the function of that name up to its body. It comes before the completion, which either goes on with it or
    defines the function anew.
    """
    return float(_passes(_whole(last_block(said(completion)), record or {}), answer))


def _whole(code: str, record: Mapping[str, Any]) -> str:
    beginning = record.get("prompt")
    if record.get("entry_point") is None or not isinstance(beginning, str) or not _is_code(beginning):
        return code
    return f"{beginning}\n{code}" if f"def {record['entry_point']}" in code else beginning + code


def _is_code(text: str) -> bool:
    """Whether a prompt is Python, and not a text about it; a function needs no body beside its docstring."""
    try:
        compile(text, "prompt", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def _passes(code: str, tests: str) -> bool:
    token = secrets.token_hex(16)
    with subprocess.Popen(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {ROOT!r}); {SANDBOX}", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"code": code, "tests": tests, "token": token}).encode())
            process.stdin.close()
            return process.stdout.read(len(token) + 1) == token.encode()
        finally:
            process.kill()


if not supported() or not _passes("", ""):
    raise BadInputError("code cannot be confined on this system; use Linux with seccomp on x86-64 or AArch64")
