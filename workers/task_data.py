"""Verifiable problems and training prompts from JSONL files."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened

from reheatd.errors import BadInputError
from reheatd.json_lines import PROMPT, Messages, prompt_messages, read_json_lines

DATA = Path(__file__).parent / "data"
ARITHMETIC = DATA / "arithmetic.jsonl"
PROMPTS = DATA / "prompts.jsonl"

Prompts = Sequence[Messages]


@dataclass(frozen=True)
class Problem:
    """A prompt whose completion can be verified against `answer`."""

    messages: Messages
    answer: str


@dataclass(frozen=True)
class TaskData:
    """The problems of a task, split in two."""

    train: list[Problem]
    held_out: list[Problem]
    """Problems on which accuracy is measured; the policy is never trained on them."""


def load_task(path: Path | None, eval_count: int) -> TaskData:
    """Loads problems and splits them, the same way every time.

    The `eval_count` problems whose content has the smallest SHA-256 are held out, at most half of the file. So the
    split does not depend on the order of the lines.

    Args:
        path: JSONL file of {"prompt" | "messages", "answer"}; None means the bundled arithmetic task.

    Raises:
        BadInputError: The file cannot be read, or a line cannot be used; the message names the line.
    """
    path = path or ARITHMETIC
    problems = []
    for place, values in read_json_lines(path, expected=f'{PROMPT}, with "answer"', param="task.path"):
        answer = values.get("answer")
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise place.error(f'"answer" must be text or a number, got {shortened(answer)}')
        problems.append(Problem(prompt_messages(place, values), str(answer)))
    if len(problems) < 2:
        raise BadInputError(f"{path}: needs at least 2 problems, has {len(problems)}", param="task.path")
    order = sorted(range(len(problems)), key=lambda i: problem_digest(problems[i]))
    held_out = order[: min(eval_count, len(problems) // 2)]
    chosen = set(held_out)
    return TaskData(
        train=[problem for i, problem in enumerate(problems) if i not in chosen],
        held_out=[problems[i] for i in held_out],
    )


def load_prompts() -> list[Messages]:
    """The bundled training prompts for TS-OPSD."""
    lines = read_json_lines(PROMPTS, expected=PROMPT, param=None)
    return [prompt_messages(place, values) for place, values in lines]


def problem_set_digest(problems: Sequence[Problem]) -> str:
    """Identifies these problems in this order."""
    return hashlib.sha256("".join(map(problem_digest, problems)).encode()).hexdigest()[:16]


def problem_digest(problem: Problem) -> str:
    """SHA-256 over a problem's messages and answer."""
    return hashlib.sha256(json.dumps([problem.messages, problem.answer], sort_keys=True).encode()).hexdigest()
