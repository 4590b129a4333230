"""Guard of one child process: no process of the child's tree outlives the daemon, however the daemon ends.

It is run as `python -I -S guard.py [--grace SECONDS] -- command...`. Its standard input is the read end of a pipe whose
write end only the daemon holds. The end of that file means that the daemon is gone, even by `kill -9`. Every descendant
then gets SIGTERM and, after the grace period, SIGKILL. If the guard itself gets SIGTERM, it passes the signal on to the
command alone, so that the command can shut down in its own way, within the same grace period. The guard is a child
subreaper: processes whose parent has died (daemonised grandchildren, engine cores, pool workers) become its children,
so that it finds them.

The exit status is the command's own, or 128 + n if signal n ended the command. The guard uses only the standard
library, and runs only on Linux.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
DEFAULT_GRACE_S = 5.0
STRAGGLER_GRACE_S = 1.0
"""Grace period of the descendants after the command itself has ended."""
POLL_S = 0.05


def guarded(command: list[str], grace_s: float) -> list[str]:
    """The command line that runs `command` under a guard. Its standard input must be the pipe described above."""
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), "--grace", str(grace_s), "--", *command]


def descendants(root: int) -> list[int]:
    """Process ids below `root`, from /proc, without processes that end while it is read."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                # The command name, in parentheses, may itself hold spaces and parentheses.
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    frontier = [root]
    while frontier:
        below = children.get(frontier.pop(), [])
        found += below
        frontier += below
    return found


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Guard:
    """Runs one command, and ends everything below it when the command or the daemon ends."""

    def __init__(self, command: list[str], grace_s: float) -> None:
        self._command = command
        self._grace_s = grace_s
        self._child = 0
        self._status: int | None = None
        self._terminated = False
        self._wakeup_r, wakeup_w = os.pipe()
        os.set_blocking(wakeup_w, False)
        os.set_blocking(self._wakeup_r, False)
        signal.set_wakeup_fd(wakeup_w, warn_on_full_buffer=False)

    def run(self) -> int:
        """Runs the command until it ends or is stopped, and returns its status once no descendant is left."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_terminate)
        # The daemon hands over the lock on its data folder. Only the guard holds it; the command must not inherit it.
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2:
                with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
                    os.set_inheritable(descriptor, False)
        self._start(libc)
        watched = [0, self._wakeup_r]
        deadline: float | None = None
        while not self._reap() and self._status is None:
            if self._terminated and deadline is None:
                signal_all([self._child], signal.SIGTERM)
                deadline = time.monotonic() + self._grace_s
            if deadline is not None and time.monotonic() >= deadline:
                break
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = select.select(watched, [], [], timeout)[0]
            if self._wakeup_r in ready:
                os.read(self._wakeup_r, 512)
            if 0 in ready and not os.read(0, 512):
                watched.remove(0)
                signal_all(descendants(os.getpid()), signal.SIGTERM)
                deadline = time.monotonic() + self._grace_s
        self._sweep()
        return 128 + signal.SIGKILL if self._status is None else self._status

    def _on_terminate(self, *_: object) -> None:
        self._terminated = True

    def _start(self, libc: ctypes.CDLL) -> None:
        guard = os.getpid()
        self._child = os.fork()
        if self._child:
            return
        os.setsid()
        # As a last resort: if the guard itself is killed with -9, the kernel kills the command too.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(self._command[0], self._command)
        except OSError as error:
            os.write(2, f"cannot run {self._command[0]}: {error.strerror}\n".encode())
            os._exit(127)

    def _reap(self) -> bool:
        """Collects the processes that have ended. Returns True if no descendant is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._child:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code

    def _sweep(self) -> None:
        """Ends all processes that are left below the guard.

        If the command ended by itself, what outlived it gets SIGTERM first; all others get SIGKILL at once.
        """
        if self._status is not None and not self._reap():
            signal_all(descendants(os.getpid()), signal.SIGTERM)
            deadline = time.monotonic() + STRAGGLER_GRACE_S
            while not self._reap() and time.monotonic() < deadline:
                select.select([], [], [], POLL_S)
        while not self._reap():
            # This is repeated, because a process may fork between the look at /proc and the signal.
            signal_all(descendants(os.getpid()), signal.SIGKILL)
            select.select([], [], [], POLL_S)


def main() -> int:
    arguments = sys.argv[1:]
    grace_s = DEFAULT_GRACE_S
    if arguments[:1] == ["--grace"]:
        grace_s = float(arguments[1])
        arguments = arguments[2:]
    if arguments[:1] != ["--"] or not arguments[1:]:
        sys.stderr.write("usage: guard.py [--grace SECONDS] -- command...\n")
        return 2
    return Guard(arguments[1:], grace_s).run()


if __name__ == "__main__":
    sys.exit(main())
