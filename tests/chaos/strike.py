"""Stopping a process at a precise point of its work, and killing it there."""

import time
from collections.abc import Callable

import psutil

from tests.waiting import HANGS_S

POLL_S = 0.002


class PointMissed(AssertionError):
    """The work was over before the process could be stopped at the wanted point."""


def hold(
    process: Callable[[], psutil.Process | None], at: Callable[[], bool], over: Callable[[], bool] = lambda: False
) -> psutil.Process:
    """Stops a process while `at` holds, and returns it.

    It is stopped as soon as `at` holds. If `at` does not hold any more by then, it goes on until the next such moment.

    Args:
        process: Finds the process; None while it does not exist.
        over: Whether no such moment can come any more.

    Raises:
        PointMissed: `over` came first.
    """
    deadline = time.monotonic() + HANGS_S
    while time.monotonic() < deadline:
        if at() and (found := process()) is not None and _is_held(found, at):
            return found
        if over():
            raise PointMissed("the work was over before the process could be stopped at the wanted point")
        time.sleep(POLL_S)
    raise AssertionError(f"the wanted point did not come within {HANGS_S:.0f} s")


def _is_held(process: psutil.Process, at: Callable[[], bool]) -> bool:
    """Stops a process, and lets it go on unless `at` holds now; returns whether it is stopped."""
    try:
        freeze(process)
    except psutil.NoSuchProcess:
        return False
    if at():
        return True
    process.resume()
    return False


def freeze(*processes: psutil.Process) -> None:
    """Stops processes with SIGSTOP, and waits until they stand still."""
    for process in processes:
        process.suspend()
    for process in processes:
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            time.sleep(POLL_S)


def end(*processes: psutil.Process) -> None:
    """Kills processes with SIGKILL, and waits until they are gone."""
    for process in processes:
        if process.is_running():
            process.kill()
    deadline = time.monotonic() + HANGS_S
    while any(is_alive(process) for process in processes):
        assert time.monotonic() < deadline, f"{processes} do not die"
        time.sleep(POLL_S)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
