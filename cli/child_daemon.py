"""A command's own daemon: a child process that ends with the command, however that ends."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from reheatd.process.children import python_module
from reheatd.process.guard import guarded

ENDING = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 60.0
"""Time from SIGTERM to SIGKILL, in seconds: long enough for the daemon to drain and to stop its own children."""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside the context, SIGTERM and SIGINT raise `SystemExit` with the status that a shell expects, 143 or 130."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = [signal.signal(number, end) for number in ENDING]
    try:
        yield
    finally:
        for number, handler in zip(ENDING, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def guarded_daemon(
    config: Path | None, log_file: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs `reheatd serve` under a guard, whose process it yields, and stops it at the end.

    If this process disappears without stopping the daemon, even by `kill -9`, the guard ends the daemon's whole tree.
    The daemon has its own session, so that Ctrl-C reaches it only through this context, after the client has been
    stopped. A second signal does not interrupt the stop; it tells the daemon not to wait for its requests.

    Args:
        config: Configuration file of the daemon; default: as for `reheatd serve`.
        environment: Variables beside those of this process.
    """
    read_end, lifeline = os.pipe()
    serve = python_module("cli.main", "serve", *(["--config", str(config)] if config else []))
    with contextlib.ExitStack() as closing:
        hang_up = closing.enter_context(contextlib.ExitStack())
        hang_up.callback(os.close, lifeline)
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                guarded(serve, GRACE_S),
                stdin=read_end,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        os.close(read_end)
        try:
            yield process
        finally:
            for number in ENDING:
                signal.signal(number, lambda *_: hang_up.close())
            process.terminate()
            process.wait()
