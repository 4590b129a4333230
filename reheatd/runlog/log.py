"""A run's log: the values of every metric by step."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reheatd.runlog.metric_names import STEP_NAMES

DEEPEST = 16
"""Levels of objects inside each other in which metrics are looked for."""
SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Numbers that JSON has no literal for, as W&B spells them."""


@dataclass(frozen=True)
class RunLog:
    """What one run logged."""

    source: Path
    """The file or folder that holds it."""
    format: str
    """Name of the format, for messages."""
    metrics: dict[str, dict[int, float]]
    """For each metric its value by step, the steps in order. A value may be NaN or infinite."""

    @classmethod
    def of_rows(cls, source: Path, format: str, rows: Iterable[Mapping[str, Any]]) -> "RunLog":
        """The log in `rows`, each of which holds some metrics at one step.

        Values that are no numbers are left out. Where a step is logged twice, as after a restart, the later row counts.
        A row without a step gets its place among the rows as one.
        """
        values: dict[str, dict[int, float]] = {}
        for place, row in enumerate(rows):
            numbers = {name: number for name, value in flat(row).items() if (number := as_number(value)) is not None}
            step = step_of(numbers)
            for name, number in numbers.items():
                values.setdefault(name, {})[place if step is None else step] = number
        return cls(source, format, {name: dict(sorted(by_step.items())) for name, by_step in values.items()})


def flat(row: Mapping[str, Any], levels: int = DEEPEST) -> dict[str, Any]:
    """`row` with objects inside it as names with slashes; an object `data` is unpacked, as verl wraps its metrics.

    What is nested in more than `levels` levels is left out, because it is no metric.
    """
    named: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            inner = flat(value, levels - 1) if levels else {}
            named |= inner if name == "data" else {f"{name}/{key}": each for key, each in inner.items()}
        else:
            named[name] = value
    return named


def as_number(value: Any) -> float | None:
    if isinstance(value, str):
        return SPELLED.get(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # of a whole number, for which JSON has no limit
            return math.inf if value > 0 else -math.inf
    return None


def step_of(numbers: Mapping[str, float]) -> int | None:
    """The step of a row with these numbers; None if it names none."""
    lower = {name.lower(): value for name, value in numbers.items() if name.lower() in STEP_NAMES}
    for name in STEP_NAMES:
        if name in lower and math.isfinite(lower[name]):
            return round(lower[name])
    return None
