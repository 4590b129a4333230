"""Draws which version comes from which, one row per version, as histories of commits are drawn. Pure.

A line goes down from a version to its parent. It belongs to the parent: versions of one parent share it, so the drawing
is only as wide as the run has branches that go on side by side.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class DrawnRow:
    """What is drawn in the row of one version; all numbers are columns, from 0."""

    column: int
    """Where the version's dot is."""
    joins: int | None
    """The column to whose line a line leads across from the dot, because that goes down to the parent already."""
    above: frozenset[int]
    """Lines that come in from the row above."""
    below: frozenset[int]
    """Lines that go on to the row below."""

    @property
    def columns(self) -> int:
        """How many columns the row takes."""
        return max(self.column, *self.above, *self.below, 0) + 1


def draw(parents: Iterable[tuple[int, int | None]]) -> list[DrawnRow]:
    """The rows of the drawing.

    Args:
        parents: Versions with their parents, the newest version first. A parent is older than its version. None: the
            version has no parent, or one that does not exist any more.
    """
    lanes: dict[int, int] = {}
    """The column of the line that goes down to a version."""
    drawn = []
    for version, parent in parents:
        above = frozenset(lanes.values())
        column = lanes.pop(version, None)
        if column is None:
            column = next(free for free in range(len(lanes) + 1) if free not in above)
        joins = None if parent is None else lanes.get(parent)
        if parent is not None and joins is None:
            lanes[parent] = column
        drawn.append(DrawnRow(column, joins, above, frozenset(lanes.values())))
    return drawn
