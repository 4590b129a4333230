"""Rollouts of a job as pages of those that fit a filter; only the rows of the page are read whole."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from reheatd.jobs.rollouts import RolloutRow, read_entropies, with_entropies
from reheatd.jobs.step_log import StepLog, StepRow


class _Head(StepRow):
    """What a filter asks of a row."""

    model_config = ConfigDict(extra="ignore")

    truncated: bool
    reward: float | None = None


@dataclass(frozen=True)
class RolloutFilter:
    """What rollouts must be like; None stands for anything."""

    step: int | None = None
    least: float | None = None
    """Least reward."""
    most: float | None = None
    """Largest reward."""
    truncated: bool | None = None

    def fits(self, row: _Head) -> bool:
        return (
            self.step in (None, row.step)
            and (self.least is None or (row.reward is not None and row.reward >= self.least))
            and (self.most is None or (row.reward is not None and row.reward <= self.most))
            and self.truncated in (None, row.truncated)
        )


@dataclass(frozen=True)
class RolloutPage:
    """Rollouts, each with its number in the file, those of the newest step first."""

    rows: list[tuple[int, RolloutRow]]
    total: int
    """Number of rollouts that fit, on all pages."""
    kept: int
    """Number of rollouts in the file."""
    steps: list[int]
    """The steps of which there are any."""


def read_page(file: Path, wanted: RolloutFilter, page: int, size: int) -> RolloutPage:
    """A page of the rollouts in `file` that fit; it is empty if there is no file, or no such page.

    Args:
        page: Number of the page, from 1.
        size: Rollouts of a page.

    Raises:
        ReheatdError: The file cannot be read, or a line is damaged.
    """
    heads, rows = StepLog(file, _Head), StepLog(file, RolloutRow)
    lines = heads.lines()
    every = [(number, heads.parse(line, number)) for number, line in enumerate(lines, start=1)]
    fitting = sorted(((-head.step, number) for number, head in every if wanted.fits(head)))
    chosen = [number for _, number in fitting[(page - 1) * size : page * size]]
    entropies = read_entropies(file) if chosen else {}
    counts: Counter[int] = Counter()
    places: dict[int, tuple[int, int]] = {}
    for number, head in every:
        places[number] = (head.step, counts[head.step])
        counts[head.step] += 1
    return RolloutPage(
        rows=[
            (number, with_entropies(rows.parse(lines[number - 1], number), entropies.get(places[number])))
            for number in chosen
        ],
        total=len(fitting),
        kept=len(lines),
        steps=sorted(counts),
    )
