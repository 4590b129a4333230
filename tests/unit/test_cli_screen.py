"""What a long command shows while it works."""

import io
import time

import pytest
from rich.console import Console

from cli import screen as screen_module
from cli.screen import Screen


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(screen_module, "time", clock)
    return clock


def test_without_a_terminal_a_line_comes_now_and_then_and_says_something_new(clock: Clock) -> None:
    output = io.StringIO()
    with Screen(Console(file=output, force_terminal=False, width=200), time.time()) as screen:
        screen.say("the baseline is 2.370 [2.158, 2.583]")
        for done in (4, 8, 12, 16, 16, 16, 20):
            clock.now += 6.0
            screen.show("reheat-1 step 4 of 30: sampling", done, 32)
    lines = [line.split("] ", 1)[1].strip() for line in output.getvalue().splitlines()]
    assert lines == [
        "the baseline is 2.370 [2.158, 2.583]",
        "reheat-1 step 4 of 30: sampling 8 of 32",
        "reheat-1 step 4 of 30: sampling 16 of 32",
        "reheat-1 step 4 of 30: sampling 20 of 32",
    ]


def test_on_a_terminal_a_bar_moves_below_the_lines() -> None:
    output = io.StringIO()
    with Screen(Console(file=output, force_terminal=True, width=120), time.time()) as screen:
        screen.show("reheat-1: evaluating", 12, 48)
        screen.say("policy-v1 is live")
        screen.show("reheat-1: evaluating", 36, 48)
        shown = output.getvalue()
    assert "12 of 48" in shown and "36 of 48" in shown
    assert shown.index("12 of 48") < shown.index("policy-v1 is live") < shown.index("36 of 48")
