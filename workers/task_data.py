"""Verifiable problems and training prompts from JSONL files."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reheatd.errors import BadInputError

DATA = Path(__file__).parent / "data"
ARITHMETIC = DATA / "arithmetic.jsonl"
PROMPTS = DATA / "prompts.jsonl"

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Problem:
    """A prompt whose completion can be verified against `answer`."""

    messages: Messages
    answer: str


@dataclass(frozen=True)
class TaskData:
    train: list[Problem]
    held_out: list[Problem]
    """For measuring accuracy; never trained on."""


def load_task(path: Path | None, eval_count: int) -> TaskData:
    """Loads problems and splits them, the same way every time.

    The `eval_count` problems with the smallest SHA-256 of their content are held out (at most half of the file), so
    that the split does not depend on the order of lines.

    Args:
        path: JSONL of {"prompt" | "messages", "answer"}; None is the bundled arithmetic task.

    Raises:
        BadInputError: The file is missing or a line is unusable; the message names the line.
    """
    path = path or ARITHMETIC
    problems = []
    for where, record in _records(path):
        answer = record.get("answer")
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise BadInputError(f'{where}: "answer" must be text or a number, got {answer!r}', param="task.path")
        problems.append(Problem(_messages(where, record), str(answer)))
    if len(problems) < 2:
        raise BadInputError(f"{path}: needs at least 2 problems, has {len(problems)}", param="task.path")
    order = sorted(range(len(problems)), key=lambda i: _digest(problems[i]))
    held_out = order[: min(eval_count, len(problems) // 2)]
    chosen = set(held_out)
    return TaskData(
        train=[problem for i, problem in enumerate(problems) if i not in chosen],
        held_out=[problems[i] for i in held_out],
    )


def load_prompts(path: Path | None = None) -> list[Messages]:
    """Training prompts for TS-OPSD, JSONL of {"prompt" | "messages"}; None is the bundled set.

    Raises:
        BadInputError: As for `load_task`.
    """
    path = path or PROMPTS
    prompts = [_messages(where, record) for where, record in _records(path)]
    if not prompts:
        raise BadInputError(f"{path}: holds no prompts")
    return prompts


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSONL file with where they stand; blank lines are skipped."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"task file {path} cannot be read: {error}", param="task.path") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInputError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from error
        if not isinstance(record, dict):
            raise BadInputError(f"{where}: needs a JSON object, got {type(record).__name__}")
        yield where, record


def _messages(where: str, record: dict[str, Any]) -> Messages:
    prompt, messages = record.get("prompt"), record.get("messages")
    if (prompt is None) == (messages is None):
        raise BadInputError(f'{where}: needs either "prompt" or "messages"')
    if prompt is not None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadInputError(f'{where}: "prompt" must be text that is not empty, got {prompt!r}')
        return [{"role": "user", "content": prompt}]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise BadInputError(f'{where}: "messages" must be a list of {{"role", "content"}} objects')
    return messages


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _digest(problem: Problem) -> str:
    return hashlib.sha256(json.dumps([problem.messages, problem.answer], sort_keys=True).encode()).hexdigest()
