"""Runs a reward in child processes that can be killed, so that a reward that hangs does not hang the job."""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from reheatd.errors import BadInputError
from reheatd.process.children import python_module
from reheatd.task_data import Problem
from workers.rewards.reach import passed_environment
from workers.rewards.scoring import Answered, Judgement, Unscored

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
"""Longest time for a child to import the reward's module; math libraries take seconds."""
MAX_CHILDREN = 8
MAX_SAID = 500
"""Characters that are kept of what a reward says about a completion."""


class Verifier(AbstractContextManager["Verifier"]):
    """Scores with one persistent child per core; a child that hangs or dies is replaced, and the others go on.

    If the reward exceeds the time limit, raises or kills its process, the completion scores 0 and is counted. A number
    that is not finite is an error.

    Args:
        reward: A name that `workers.rewards.load_reward` knows.
        timeout_s: Time limit for one completion, in seconds.
        children: Number of children. Default: one per core that this process may use, at most `MAX_CHILDREN`.
        on_progress: Called after each completion that was scored, and each answer that was checked, with their number
            and that of all of them. An exception from it ends the work.
        readable: Files and folders that the reward may read besides its code; see `workers.rewards.reach`.
        variables: Names of environment variables that the reward gets besides those that every reward gets.
    """

    # One thread starts all children and stays as long as they do, because Linux ends a child with the thread that
    # started it; see `child._die_with_parent`. So any thread may have completions scored, one after the other.

    def __init__(
        self,
        reward: str,
        *,
        timeout_s: float = 5.0,
        children: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        readable: Sequence[Path] = (),
        variables: Sequence[str] = (),
    ) -> None:
        self._reward = reward
        count = children or min(MAX_CHILDREN, len(os.sched_getaffinity(0)))
        self.unscored = Unscored()
        self._last_failure = ""
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        environment = passed_environment(os.environ, variables)
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job-rewards")
        self._children = [_Child(reward, timeout_s, readable, environment, self._starter) for _ in range(count)]

    def __enter__(self) -> "Verifier":
        try:
            for child in self._children:
                child.spawn()
            for child in self._children:
                child.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
        self._starter.shutdown()

    def score_all(self, answered: Sequence[Answered]) -> list[float]:
        """The values of `judge_all`, which raises the same errors."""
        return [judgement.value for judgement in self.judge_all(answered)]

    def judge_all(self, answered: Sequence[Answered]) -> list[Judgement]:
        """The rewards of completions, in their order; built-in rewards are within [0, 1].

        Raises:
            BadInputError: The reward returned a number that is not finite; or a child had to be replaced, and the
                reward can no longer be loaded.
        """
        needs = self._children[0].needs
        requests = [
            {
                "completion": completion,
                "answer": problem.answer,
                **({"prompt": problem.messages} if "prompt" in needs else {}),
                **({"record": problem.record} if "record" in needs else {}),
            }
            for completion, problem in answered
        ]
        judgements = [Judgement(0.0)] * len(answered)
        for place, reply in self._replies(requests):
            if "not_finite" in reply:
                where = answered[place][1].place or "a problem"
                raise BadInputError(
                    f"reward {self._reward!r} returned {reply['not_finite']} for an answer to {where}; return a finite "
                    "number, such as 0 for what cannot be scored",
                    param="task.reward",
                )
            judgements[place] = self._judgement_in(reply)
        return judgements

    def check_answers(self, problems: Sequence[Problem]) -> None:
        """Checks that the reward can use the answers of problems, if it can tell.

        Raises:
            BadInputError: It cannot use one; the message names the first of them and its place.
        """
        if not self._children[0].checks:
            return
        first = {problem.answer: problem for problem in reversed(problems)}
        answers = [*reversed(first)]
        unusable: dict[int, str] = {}
        for place, reply in self._replies([{"check": answer} for answer in answers]):
            fault = reply.get("unusable", reply.get("error", "it cannot be read within task.reward_timeout_s"))
            if fault is not None:
                unusable[place] = fault
        if unusable:
            place = min(unusable)
            others = f" (and {len(unusable) - 1} more like it)" if len(unusable) > 1 else ""
            raise BadInputError(
                f"{first[answers[place]].place or 'a problem'}: {unusable[place]}{others}, so the reward "
                f"{self._reward!r} could not judge by it; correct the answer or leave the problem out, or choose "
                "another reward in task.reward",
                param="task.path",
            )

    def _replies(self, requests: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The replies to requests, each with its place among them, as they arrive.

        A reply is empty if there was none in time, and {"died": True} if the child died; such a child is replaced.
        """
        waiting = deque(enumerate(requests))
        idle = list(self._children)
        asked: dict[_Child, int] = {}
        while waiting or asked:
            while waiting and idle:
                child = idle.pop()
                asked[child], request = waiting.popleft()
                child.ask(request)
            deadline = min(child.deadline for child in asked)
            ready, _, _ = select.select(list(asked), [], [], max(0.0, deadline - time.monotonic()))
            now = time.monotonic()
            for child in [child for child in asked if child in ready or child.deadline <= now]:
                # A reply that has arrived is taken even if it is late, because this process may have been the slow one.
                reply = child.read() if child in ready else {}
                if reply is None:
                    continue
                if not reply or reply.get("died"):
                    child.replace()
                idle.append(child)
                yield asked.pop(child), reply
                if self._on_progress is not None:
                    self._on_progress(len(requests) - len(waiting) - len(asked), len(requests))

    def _judgement_in(self, reply: dict[str, Any]) -> Judgement:
        if "reward" in reply:
            said = reply.get("said")
            return Judgement(reply["reward"], None if said is None else _one_line(said))
        if not reply:
            self.unscored.timeouts += 1
            return Judgement(0.0, f"it gave no reward within {self._timeout_s:g} s")
        if reply.get("died"):
            self.unscored.crashes += 1
            return Judgement(0.0, "its process ended")
        self.unscored.failures += 1
        if reply["error"] != self._last_failure:  # one line for a reward that fails on everything
            logger.warning("the reward failed and scored 0: %s", reply["error"])
        self._last_failure = reply["error"]
        return Judgement(0.0, _one_line(f"it failed: {reply['error']}"))


def _one_line(text: str) -> str:
    """What is kept of a reward's words: one line, in characters that every file can hold."""
    line = " ".join(text.encode(errors="replace").decode().split())
    return line if len(line) <= MAX_SAID else f"{line[:MAX_SAID]}..."


class _Child:
    """A process that serves one reward. Requests and replies are JSON lines over pipes."""

    def __init__(
        self,
        reward: str,
        timeout_s: float,
        readable: Sequence[Path],
        environment: Mapping[str, str],
        starter: ThreadPoolExecutor,
    ) -> None:
        self.deadline = 0.0
        """Time by which the present request must be answered, in monotonic seconds."""
        self.needs: Sequence[str] = ()
        """Which of prompt and record the reward takes."""
        self.checks = False
        """Whether the reward can check answers."""
        self._reward = reward
        self._timeout_s = timeout_s
        self._readable = [str(path.expanduser().resolve()) for path in readable]
        self._environment = environment
        self._starter = starter
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def spawn(self) -> None:
        self._buffer = b""
        self.deadline = time.monotonic() + START_TIMEOUT_S
        self._scratch = tempfile.TemporaryDirectory(prefix="reheatd-reward-", ignore_cleanup_errors=True)
        starting = self._starter.submit(
            subprocess.Popen,
            python_module("workers.rewards.child", self._reward, str(os.getpid()), *self._readable),
            env={**self._environment, "TMPDIR": self._scratch.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that what a reward starts can be killed with it
        )
        self._process = starting.result()

    def wait_until_ready(self) -> None:
        reply = None
        while reply is None:
            ready, _, _ = select.select([self], [], [], max(0.0, self.deadline - time.monotonic()))
            reply = self.read() if ready else {"error": f"it did not load within {START_TIMEOUT_S:.0f} s"}
        if "ready" in reply:
            self.needs, self.checks = reply["needs"], reply["checks"]
        else:
            self.kill()
            cause = reply.get("error", "its process ended while it was loaded")
            raise BadInputError(f"reward {self._reward!r} cannot be used: {cause}", param="task.reward")

    def ask(self, request: dict[str, Any]) -> None:
        self.deadline = time.monotonic() + self._timeout_s
        line = json.dumps(request, default=str) + "\n"  # parquet files also hold dates, decimals and the like
        # If the child has died in the meantime, its replies end, which `read` reports.
        with contextlib.suppress(BrokenPipeError):
            stdin = self._running().stdin
            assert stdin is not None
            stdin.write(line.encode())
            stdin.flush()

    def read(self) -> dict[str, Any] | None:
        """Reads what has arrived: a reply, {"died": True}, or None for a part of a reply."""
        data = os.read(self.fileno(), 1 << 16)
        if not data:
            return {"died": True}
        line, newline, rest = (self._buffer + data).partition(b"\n")
        self._buffer = rest if newline else line
        return json.loads(line) if newline else None

    def fileno(self) -> int:
        """The file descriptor of the replies, for `select`."""
        stdout = self._running().stdout
        assert stdout is not None
        return stdout.fileno()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the verifier can only be used inside its `with` block")
        return self._process

    def replace(self) -> None:
        self.kill()
        self.spawn()
        self.wait_until_ready()

    def kill(self) -> None:
        """Kills the child with everything that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # closing flushes requests that the dead child never read
                pipe.close()
        assert self._scratch is not None
        self._scratch.cleanup()
