"""Completions of problems that have only an answer, for tests of rewards."""

from collections.abc import Sequence

from reheatd.task_data import Problem

Answered = tuple[str, Problem]


def answers(pairs: Sequence[tuple[str, str]]) -> list[Answered]:
    """Completions, each with a problem that has this answer."""
    return [(completion, Problem([], answer)) for completion, answer in pairs]
