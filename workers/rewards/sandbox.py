"""The process that runs a completion's code and its tests, and can do nothing else. `unit_tests` starts it.

It reads {"code", "tests", "token"} on stdin, and writes the token to stdout if every test has passed.
"""

import builtins
import ctypes
import io
import json
import os
import resource
import signal
import sys
import types
import unittest

from workers.rewards.reach import confine_to_installation
from workers.rewards.seccomp import install

PR_SET_PDEATHSIG = 1
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 60
"""Limit for a process whose verifier is gone; the verifier's own time limit is far shorter."""
OPEN_FILES = 64


def main() -> None:
    verdict = os.dup(1)
    request = json.load(sys.stdin)
    _confine(int(sys.argv[1]))
    if passes(request["code"], request["tests"]):
        os.write(verdict, request["token"].encode())
    os._exit(0)  # so that nothing the code left behind, in exit handlers or threads, still runs


def passes(code: str, tests: str) -> bool:
    """Whether `code`, then `tests`, then the test functions and cases in `tests` all run without an exception."""
    trusted = dict(vars(builtins))
    module = types.ModuleType("completion")
    try:
        exec(compile(code, "completion.py", "exec"), vars(module))
        # The tests get the original built-in functions, whatever the code did to them.
        checks = types.ModuleType("tests")
        vars(checks).update({k: v for k, v in vars(module).items() if not k.startswith("__")}, __builtins__=trusted)
        before = set(vars(checks))
        exec(compile(tests, "tests.py", "exec"), vars(checks))
        for name in sorted(set(vars(checks)) - before):
            function = getattr(checks, name)
            if name.startswith("test") and isinstance(function, types.FunctionType):
                function()
        cases = [vars(checks)[name] for name in set(vars(checks)) - before]
        loader = unittest.TestLoader()
        suite = unittest.TestSuite(
            loader.loadTestsFromTestCase(case)
            for case in cases
            if isinstance(case, type) and issubclass(case, unittest.TestCase)
        )
        return unittest.TextTestRunner(io.StringIO()).run(suite).wasSuccessful()
    except BaseException:  # code and tests did not pass, whatever they raised, exits and interrupts included
        return False


def _confine(parent: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    confine_to_installation()
    install()
