"""Shifts the clock of a Python process, for tests of a clock that is set back.

Python imports this module at its start if its folder is in PYTHONPATH. The file that CHAOS_CLOCK names holds the
seconds that are added to `time.time`; without the variable, nothing is changed. Monotonic clocks stay as they are, as
they do when an administrator sets a clock.
"""

import os
import time

FILE = os.environ.get("CHAOS_CLOCK")


def shift_clock(file: str) -> None:
    real, real_ns = time.time, time.time_ns

    def shift() -> float:
        try:
            with open(file) as handle:
                return float(handle.read() or 0)
        except FileNotFoundError:
            return 0.0

    time.time = lambda: real() + shift()
    time.time_ns = lambda: real_ns() + int(shift() * 1e9)


if FILE:
    shift_clock(FILE)
