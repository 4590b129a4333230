"""Runs a reward in a child process that can be killed, so that a verifier that hangs does not hang the job."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from reheatd.errors import BadInputError
from workers.rewards.scoring import Unscored

START_TIMEOUT_S = 120.0
"""The child imports the reward's module first; math libraries take seconds."""


class Verifier(AbstractContextManager["Verifier"]):
    """One persistent child that scores completions, replaced when it hangs or dies.

    Requests and replies are JSON lines over pipes. A completion whose verifier exceeds the time limit, raises or
    kills its process scores 0 and is counted.
    """

    def __init__(self, reward: str, *, timeout_s: float = 5.0) -> None:
        self.reward = reward
        self.timeout_s = timeout_s
        self.unscored = Unscored()
        self.last_failure = ""
        self._child: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def __enter__(self) -> "Verifier":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def score(self, completion: str, answer: str) -> float:
        """The reward of one completion, in [0, 1] for the built-in rewards.

        Raises:
            BadInputError: The reward cannot be loaded.
        """
        child = self._child or self._start()
        request = json.dumps({"completion": completion, "answer": answer}) + "\n"
        reply = None
        try:
            assert child.stdin is not None
            child.stdin.write(request.encode())
            child.stdin.flush()
            reply = self._read_line(child, self.timeout_s)
        except BrokenPipeError:
            pass  # the child died; handled as no reply
        if reply is None:
            if child.poll() is None:
                self.unscored.timeouts += 1
            else:
                self.unscored.crashes += 1
            self._kill()
            return 0.0
        if "error" in reply:
            self.unscored.failures += 1
            self.last_failure = reply["error"]
            return 0.0
        return reply["reward"]

    def score_all(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The rewards of (completion, answer) pairs, in their order."""
        return [self.score(completion, answer) for completion, answer in pairs]

    def _start(self) -> subprocess.Popen[bytes]:
        self._buffer = b""
        self._child = subprocess.Popen(
            [sys.executable, "-m", "workers.rewards.child", self.reward, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        reply = self._read_line(self._child, START_TIMEOUT_S)
        if reply is None or "error" in reply:
            self._kill()
            cause = reply["error"] if reply else "its process ended or did not start in time"
            raise BadInputError(f"reward {self.reward!r} cannot be used: {cause}", param="task.reward")
        return self._child

    def _read_line(self, child: subprocess.Popen[bytes], timeout_s: float) -> dict | None:
        """The next reply; None when the child ends or the time is up."""
        assert child.stdout is not None
        descriptor = child.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            data = os.read(descriptor, 1 << 16)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                # Closing flushes what a child that is gone never read.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
