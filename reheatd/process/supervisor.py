"""Child processes of the daemon: started under a guard, restarted with back-off, stopped in order.

A child's life has two phases. While it starts, its end is an error: `Child.ready_when` raises a `ChildError` with the
line of its log that says why. Once `Child.keep_running` has been called, a child that ends is restarted. The back-off
before that doubles with every quick failure, and the reason is logged.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from reheatd.errors import ReheatdError
from reheatd.process.child_log import ChildLog
from reheatd.process.children import child_environment
from reheatd.process.guard import guarded

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 60.0
STABLE_S = 60.0
"""A child that has run for this time is restarted after the first back-off again."""
ROTATE_EVERY_S = 60.0

T = TypeVar("T")


class ChildError(ReheatdError, RuntimeError):
    """A child process ended while the daemon was starting.

    What to do: The message has the end of the child's log. `reheatd doctor` says what is missing on this machine,
    and `reheatd plan` whether the policy fits into its memory.
    """

    code = "child_failed"
    exit_code = 2


@dataclass(frozen=True)
class Command:
    """How a child is started and stopped."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict, repr=False)
    """What the child's environment has besides the daemon's; it may hold secrets, so do not log it."""
    grace_s: float = 5.0
    """Time between SIGTERM and SIGKILL, in seconds."""


class Child:
    """One supervised process, made by `Supervisor.start`. Times are in seconds."""

    def __init__(self, command: Command, log_path: Path, inherited: tuple[int, ...]) -> None:
        self.command = command
        self.log = ChildLog(log_path)
        self.restarts = 0
        self._inherited = inherited
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline: int | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._started_at = 0.0

    @property
    def name(self) -> str:
        return self.command.name

    @property
    def log_path(self) -> Path:
        return self.log.path

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def ready_when(self, ready: Coroutine[None, None, T]) -> T:
        """Awaits `ready` for as long as the process lives.

        Raises:
            ChildError: The process ended first; the message says how it ended, and why if its log tells.
        """
        assert self._process is not None
        waiting = asyncio.create_task(ready)
        if await self._ended_before(waiting):
            raise ChildError(f"the {self.name} {self._obituary()}; its log is {self.log_path}")
        return waiting.result()

    def keep_running(
        self,
        *,
        on_exit: Callable[[], None] | None = None,
        on_restart: Callable[[], Awaitable[None]] | None = None,
        until_dead: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Restarts the process from now on whenever it ends.

        Args:
            on_exit: Called as soon as the process has ended or is found dead.
            on_restart: Awaited after a restart, e.g. to wait until the process is ready and to restore its state. If it
                raises a `ReheatdError`, the error is logged and the process is stopped and started once more.
            until_dead: Awaited while the process runs. It returns when the process can no longer do its work, even if
                it still exists. The process is then stopped, unless it ends by itself within its grace period.
        """
        self._keeper = asyncio.create_task(self._keep(on_exit, on_restart, until_dead), name=f"keep {self.name}")

    async def stop(self) -> None:
        """Ends the process and its whole tree, with its grace period. All calls wait for the same end."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop {self.name}")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._terminate()

    async def start(self) -> None:
        # The guard reads the pipe. Only this process holds the other end, and the kernel closes that end when this
        # process ends, however it ends.
        read_end, self._lifeline = os.pipe()
        try:
            with self.log.open() as log:
                self._process = await asyncio.create_subprocess_exec(
                    *guarded(self.command.argv, self.command.grace_s),
                    stdin=read_end,
                    stdout=log,
                    stderr=log,
                    env=child_environment(self.command.env),
                    pass_fds=self._inherited,
                    start_new_session=True,
                )
        except OSError:
            self._close_lifeline()
            raise
        finally:
            os.close(read_end)
        self._started_at = time.monotonic()

    async def _ended_before(self, task: "asyncio.Task[Any]") -> bool:
        """Waits until the process has ended or `task` is done; in the first case, cancels the task and returns True."""
        assert self._process is not None
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
            return not task.done()
        finally:
            for each in (task, ended):
                each.cancel()
            await asyncio.gather(task, ended, return_exceptions=True)

    async def _terminate(self) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                self._process.terminate()
            await self._process.wait()
        self._close_lifeline()

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    async def _keep(
        self,
        on_exit: Callable[[], None] | None,
        on_restart: Callable[[], Awaitable[None]] | None,
        until_dead: Callable[[], Awaitable[None]] | None,
    ) -> None:
        backoff_s, has_ended = FIRST_BACKOFF_S, False
        while True:
            try:
                if not has_ended:
                    await self._until_ended(until_dead)
                    has_ended = True
                    if on_exit is not None:
                        on_exit()
                    await self._put_down()
                    if time.monotonic() - self._started_at >= STABLE_S:
                        backoff_s = FIRST_BACKOFF_S
                    times, why = self.restarts + 1, self._obituary()
                    logger.warning("the %s %s; restart %d follows in %.0f s", self.name, why, times, backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
                await self.start()
                self.restarts += 1
                has_ended = False
                if on_restart is not None:
                    await self.ready_when(_call(on_restart))
            except ReheatdError as error:
                logger.error("the %s did not become ready again: %s", self.name, error)
                await self._terminate()
            except Exception:  # whatever it is, the child has to run again
                logger.exception("the %s could not be restarted; the next attempt follows", self.name)
                await self._terminate()
                has_ended = True

    async def _until_ended(self, until_dead: Callable[[], Awaitable[None]] | None) -> None:
        assert self._process is not None
        if until_dead is None:
            await self._process.wait()
        else:
            await self._ended_before(asyncio.create_task(_call(until_dead)))

    async def _put_down(self) -> None:
        """Ends a process that can no longer do its work, unless it ends by itself within its grace period."""
        if self.is_running:
            logger.warning("the %s is running but can no longer do its work", self.name)
            await self._ended_before(asyncio.create_task(asyncio.sleep(self.command.grace_s)))
        await self._terminate()

    def _obituary(self) -> str:
        assert self._process is not None and self._process.returncode is not None
        code = self._process.returncode
        if code < 0 or code > 128:
            number = -code if code < 0 else code - 128
            names = {signum.value: signum.name for signum in signal.Signals}
            how = f"was ended by {names.get(number, f'signal {number}')}"
        else:
            how = f"exited with code {code}"
        reason = self.log.reason()
        return f"{how} after {time.monotonic() - self._started_at:.0f} s" + (f" ({reason})" if reason else "")


class Supervisor:
    """The daemon's children, in the order in which they were started.

    Args:
        logs_dir: Each child's output is appended to `<name>.log` in this folder.
        inherited: File descriptors that the guards hold for as long as any process below them runs.
    """

    def __init__(self, logs_dir: Path, inherited: tuple[int, ...] = ()) -> None:
        self._logs_dir = logs_dir
        self._inherited = inherited
        self._children: list[Child] = []

    async def start(self, command: Command) -> Child:
        child = Child(command, self._logs_dir / f"{command.name}.log", self._inherited)
        self._children.append(child)
        await child.start()
        return child

    async def rotate_logs(self) -> None:
        """Rotates logs that have become large, for ever."""
        while True:
            for child in self._children:
                await asyncio.to_thread(child.log.rotate)
            await asyncio.sleep(ROTATE_EVERY_S)

    async def stop_all(self, last: Child | None = None) -> None:
        """Stops all children at once, and `last`, which the others need, after they have ended."""
        await asyncio.gather(*(child.stop() for child in self._children if child is not last))
        if last is not None:
            await last.stop()


async def _call(function: Callable[[], Awaitable[None]]) -> None:
    await function()
