"""A problem of a task: a prompt whose completion can be verified."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reheatd.json_lines import Messages


@dataclass(frozen=True)
class Problem:
    """A prompt whose completion can be verified against `answer`."""

    messages: Messages
    answer: str
    record: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """All fields of the problem, as its source has them, for rewards that need more than the answer."""
    place: str = field(default="", compare=False)
    """Where the problem stands, such as file and line, for messages."""


def problem_digest(problem: Problem) -> str:
    """SHA-256 over a problem's messages and answer."""
    return hashlib.sha256(json.dumps([problem.messages, problem.answer], sort_keys=True).encode()).hexdigest()


def problem_set_digest(problems: Sequence[Problem]) -> str:
    """Identifies these problems in this order."""
    return hashlib.sha256("".join(map(problem_digest, problems)).encode()).hexdigest()[:16]


def asked(messages: Messages) -> str:
    """What a prompt asks; equal for prompts that differ only in white space."""
    return json.dumps([[message["role"], " ".join(message["content"].split())] for message in messages])
