"""Unit tests as a reward: what passes, and what the code under test cannot do."""

import time
from pathlib import Path

import psutil
import pytest

from reheatd.process.landlock import is_available
from tests.rewarding import answers
from workers.rewards import load_reward
from workers.rewards.scoring import Unscored
from workers.rewards.unit_tests import SANDBOX
from workers.rewards.verifier import Verifier

DOUBLE = "def double(x):\n    return 2 * x\n"
FENCED = f"Doubling is addition.\n```python\n{DOUBLE}```\nThat is all."


def passes(code: str, tests: str = "") -> bool:
    return load_reward("unit_tests")(code, tests) == 1.0


@pytest.mark.parametrize("code", [DOUBLE, FENCED])
@pytest.mark.parametrize(
    ("tests", "right"),
    [
        ("assert double(4) == 8", True),
        ("assert double(4) == 9", False),
        ("def test_double():\n    assert double(4) == 8", True),
        ("def test_double():\n    assert double(4) == 9", False),
        ("import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(double(4), 8)", True),
        ("import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(double(4), 9)", False),
        ("assert triple(4) == 12", False),
        ("assert double(4) ==", False),
    ],
)
def test_code_that_passes_its_tests(code: str, tests: str, right: bool) -> None:
    assert passes(code, tests) == right


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\nasyncio.run(f())",
        "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
        "import collections, dataclasses, datetime, decimal, functools, heapq, itertools, math, random, re, string",
        "import numpy\nassert numpy.ones(3) @ numpy.ones(3) == 3",
        "print('x' * 1_000_000)",
        "assert __name__ != '__main__'",
    ],
)
def test_ordinary_code_runs(code: str) -> None:
    assert passes(code)


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "import os\nos.abort()",
        "import atexit, os\natexit.register(os._exit, 0)",
        "import builtins\nbuiltins.AssertionError = type('Silent', (Warning,), {})",
        "import builtins\nbuiltins.isinstance = lambda *_: True",
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'0' * 64)\n    except OSError: pass",
        "globals()['__builtins__'] = {}",
    ],
)
def test_cheap_tricks_do_not_pass_tests(code: str) -> None:
    assert not passes(code, "assert isinstance(1, str)")


def denied(statement: str) -> bool:
    """Whether a statement raises OSError in the sandbox, and only there."""
    return passes(f"try:\n    {statement}\nexcept OSError:\n    pass\nelse:\n    raise SystemExit")


@pytest.mark.parametrize(
    "statement",
    [
        "import socket; socket.socket(socket.AF_INET)",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.create_connection(('127.0.0.1', 80))",
        "import os; os.fork()",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.kill(os.getppid(), 0)",
        "import signal, os; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)",
        "import os; os.setsid()",
        "open('/dev/shm/x', 'w')",
        "import os; os.mkdir('/tmp/x')",
        "import os; os.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
        "import os; os.memfd_create('x')",
        "import os; os.chmod('/tmp', 0o777)",
    ],
)
def test_the_world_outside_is_closed(statement: str) -> None:
    assert denied(statement)


def test_only_the_installation_can_be_read_and_nothing_written(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("kept")
    assert passes("import json\nassert open(json.__file__).read()")
    assert denied(f"open({str(file)!r})") == is_available()
    for call in ("os.remove(file)", "os.truncate(file, 0)", "os.rename(file, file + '2')", "open(file, 'a')"):
        assert denied(f"import os; file = {str(file)!r}; {call}")
    assert file.read_text() == "kept"


def test_limits_cannot_be_raised_and_memory_is_bounded() -> None:
    raised = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"
    assert not passes(raised)
    assert passes("import resource\nassert resource.getrlimit(resource.RLIMIT_AS)[1] == 1 << 30")
    assert passes("try:\n    bytearray(2 << 30)\nexcept MemoryError:\n    pass\nelse:\n    raise SystemExit")


def test_environment_is_not_handed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    assert passes("import os\nassert 'SECRET_TOKEN' not in os.environ")


def test_endless_code_is_killed_by_the_verifier() -> None:
    began = time.monotonic()
    assert passes(DOUBLE, "assert double(1) == 2")
    soon_s = max(2.0, 10 * (time.monotonic() - began))
    with Verifier("unit_tests", timeout_s=soon_s, children=2) as verifier:
        pairs = [("while True: pass", ""), (DOUBLE, "assert double(1) == 2"), ("import time; time.sleep(900)", "")]
        assert verifier.score_all(answers(pairs)) == [0.0, 1.0, 0.0]
        assert verifier.unscored == Unscored(timeouts=2)
        processes = psutil.process_iter(["cmdline"])
        sandboxes = [process for process in processes if SANDBOX in (process.info["cmdline"] or [])]
        psutil.wait_procs(sandboxes)
