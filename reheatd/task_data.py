"""The verifiable problems of a task and the probes: one split, which the daemon and its workers make alike."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened

from reheatd.errors import BadInputError
from reheatd.json_lines import PROMPT, Messages, prompt_messages, read_json_lines
from reheatd.options import TaskOptions, WindowOptions

ARITHMETIC = Path(__file__).parent / "data" / "arithmetic.jsonl"
LEAST_PROBES = 8
"""Probes that a task must bring at least, unless `entropy.probe_count` asks for fewer."""


@dataclass(frozen=True)
class Problem:
    """A prompt whose completion can be verified against `answer`."""

    messages: Messages
    answer: str


@dataclass(frozen=True)
class TaskData:
    """The problems of a task, split by what they are for, and the probes."""

    train: list[Problem]
    held_out: list[Problem]
    """Problems on which accuracy is measured; the policy is never trained on them."""
    probes: list[Messages]
    """Prompts on which entropy is measured; the policy is never trained on them either. They are prompts of the task,
    unless `entropy.probes` names a file."""


def load_task(task: TaskOptions, measuring: WindowOptions) -> TaskData:
    """Loads problems and probes and splits them, the same way every time.

    Problems are ordered by the SHA-256 of their content, so the split does not depend on the order of the lines. The
    first `task.eval_count` are held out, at most half of the file. The next `probe_count` are the probes, at most half
    of what is left; there are none if `measuring` names a file of probes. A problem that the file holds several times
    counts once, and all its copies stay on one side.

    Raises:
        BadInputError: A file cannot be read, a line cannot be used, or there are too few problems or probes; the
            message names the line or the options.
    """
    path = task.path or ARITHMETIC
    problems = {problem_digest(problem): problem for problem in _problems(path)}
    if len(problems) < 2:
        raise BadInputError(f"{path}: needs at least 2 problems, has {len(problems)}", param="task.path")
    order = sorted(problems)
    held_out = order[: min(task.eval_count, len(order) // 2)]
    rest = order[len(held_out) :]
    if measuring.probes is not None:
        chosen, probes = [], _probes_of_file(measuring.probes, measuring.probe_count)
    else:
        chosen = rest[: min(measuring.probe_count, len(rest) // 2)]
        probes = [problems[digest].messages for digest in chosen]
        if len(chosen) < min(LEAST_PROBES, measuring.probe_count):
            raise BadInputError(
                f"{path} has {len(order)} problems: {len(held_out)} are held out, and half of the others are "
                f"{len(chosen)} probes, too few to measure entropy; add problems, lower entropy.probe_count or "
                "task.eval_count, or name a file of probes in entropy.probes",
                param="task.path",
            )
    kept = {*held_out, *chosen}
    return TaskData(
        train=[problem for digest, problem in problems.items() if digest not in kept],
        held_out=[problems[digest] for digest in held_out],
        probes=probes,
    )


def problem_set_digest(problems: Sequence[Problem]) -> str:
    """Identifies these problems in this order."""
    return hashlib.sha256("".join(map(problem_digest, problems)).encode()).hexdigest()[:16]


def _problems(path: Path) -> list[Problem]:
    problems = []
    for place, values in read_json_lines(path, expected=f'{PROMPT}, with "answer"', param="task.path"):
        answer = values.get("answer")
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise place.error(f'"answer" must be text or a number, got {shortened(answer)}')
        problems.append(Problem(prompt_messages(place, values), str(answer)))
    return problems


def _probes_of_file(path: Path, count: int) -> list[Messages]:
    """The first `count` prompts of a file."""
    lines = read_json_lines(path, expected=PROMPT, param="entropy.probes")
    probes = [prompt_messages(place, values) for place, values in lines]
    if len(probes) < count:
        raise BadInputError(
            f"{path} holds {len(probes)} probes, fewer than entropy.probe_count = {count}; "
            "add probes or lower probe_count",
            param="entropy.probe_count",
        )
    return probes[:count]


def problem_digest(problem: Problem) -> str:
    """SHA-256 over a problem's messages and answer."""
    return hashlib.sha256(json.dumps([problem.messages, problem.answer], sort_keys=True).encode()).hexdigest()
