"""What a long command shows: lines that stay and, below them, the present activity and its progress."""

import time
from contextlib import AbstractContextManager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

TELL_EVERY_S = 10.0
"""Without a terminal, a line about the activity is printed if nothing else was for this time, in seconds."""


class Screen(AbstractContextManager["Screen"]):
    """Prints lines and shows the activity: on a terminal as a moving bar, elsewhere as a line if it is new.

    Args:
        started: Time from which times are counted, in seconds since the epoch.
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
        """Prints a line about something that happened now, or at the time `at` in seconds since the epoch."""
        self._told_at = time.monotonic()
        self._console.print(f"[dim]\\[{(at or time.time()) - self._started:6.1f} s][/] {escape(text)}")

    def show(self, activity: str, done: int = 0, of: int = 0) -> None:
        """Shows the present activity, and that `done` of `of` items are done; both are 0 if nothing is counted."""
        count = f"{done} of {of}" if of else ""
        if not self._bar.disable:
            self._bar.update(
                self._task, description=escape(activity), completed=done, total=of or None, count=count, refresh=True
            )
            return
        if (activity, done) != self._told and time.monotonic() - self._told_at >= TELL_EVERY_S:
            self._told = activity, done
            self.say(f"  {activity} {count}".rstrip())
