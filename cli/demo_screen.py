"""What the demonstration shows: lines that stay and, below them, what is being done at the moment and how far it is."""

import time
from contextlib import AbstractContextManager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

TELL_EVERY_S = 10.0
"""Where there is no terminal: how long nothing has to be said before a line tells of the activity."""


class Screen(AbstractContextManager["Screen"]):
    """On a terminal the activity is a bar that moves; elsewhere it is a line now and then, if it says something new.

    Args:
        started: What times are counted from, seconds since the epoch.
    """

    def __init__(self, console: Console, started: float) -> None:
        self._console = console
        self._started = started
        self._told = ("", 0)
        self._told_at = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, count="")

    def __enter__(self) -> "Screen":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str, at: float | None = None) -> None:
        """Prints a line; `at` is when it happened, seconds since the epoch, where that is not now."""
        self._told_at = time.monotonic()
        self._console.print(f"[dim]\\[{(at or time.time()) - self._started:6.1f} s][/] {escape(text)}")

    def show(self, activity: str, done: int = 0, of: int = 0) -> None:
        """Says what is being done and how far it is, `done` of `of`; 0 of 0 where nothing is counted."""
        count = f"{done} of {of}" if of else ""
        if not self._bar.disable:
            self._bar.update(
                self._task, description=escape(activity), completed=done, total=of or None, count=count, refresh=True
            )
            return
        if (activity, done) != self._told and time.monotonic() - self._told_at >= TELL_EVERY_S:
            self._told = activity, done
            self.say(f"  {activity} {count}".rstrip())
