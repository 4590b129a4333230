"""The scorer of reasoning-gym, for problems of the source `reasoning_gym:NAME`."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import reasoning_gym  # pyright: ignore[reportMissingImports]

from workers.rewards.thinking import said

TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
OF_TUPLES = frozenset(("arc_agi", "rearc"))
"""Generators whose scorers compare with tuples, which are lists after their way through JSON."""


def gym(completion: str, record: Mapping[str, Any]) -> float:
    """What the problem's own scorer gives for `completion`, or for what its last `<answer>` tags hold; from 0 to 1."""
    completion = said(completion)
    entry = record["entry"]
    name = entry["metadata"]["source_dataset"]
    if name in OF_TUPLES:
        entry = _with_tuples(entry)
    tagged = TAGGED.findall(completion)
    return float(_scorer(name)((tagged[-1] if tagged else completion).strip(), entry))


@cache
def _scorer(name: str) -> Any:
    return reasoning_gym.get_score_answer_fn(name)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_with_tuples, value))
    return {key: _with_tuples(part) for key, part in value.items()} if isinstance(value, dict) else value
