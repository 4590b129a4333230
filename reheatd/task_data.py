"""The verifiable problems of a task and the probes: one split, which the daemon and its workers make alike."""

from dataclasses import dataclass
from pathlib import Path

from reheatd.errors import BadInputError
from reheatd.json_lines import PROMPT, Messages, read_json_lines
from reheatd.options import TaskOptions, WindowOptions
from reheatd.tasks.fields import problem_of, prompt_of
from reheatd.tasks.problem import Problem, asked, problem_digest, problem_set_digest
from reheatd.tasks.sources import task_records

__all__ = ["Problem", "TaskData", "load_task", "problem_digest", "problem_set_digest"]

ARITHMETIC = Path(__file__).parent / "data" / "arithmetic.jsonl"
LEAST_PROBES = 8
"""Probes that a task must bring at least, unless `entropy.probe_count` asks for fewer."""


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

    Prompts are ordered by the SHA-256 of their problem, so the split does not depend on the order of the records. The
    first `task.eval_count` are held out, at most half of them. The next `probe_count` are the probes, at most half of
    what is left; there are none if `measuring` names a file of probes. A problem that comes several times counts once.
    All problems with the same prompt, whatever their answers and their white space, stay on one side.

    Raises:
        BadInputError: The task's records cannot be had or used, or there are too few problems or probes; the message
            names the line or the options.
    """
    path = task.path or ARITHMETIC
    problems: dict[str, Problem] = {}
    by_prompt: dict[str, list[str]] = {}
    for place, record in task_records(task, ARITHMETIC):
        problem = problem_of(place, record, task.columns)
        digest = problem_digest(problem)
        if digest not in problems:
            problems[digest] = problem
            by_prompt.setdefault(asked(problem.messages), []).append(digest)
    order = sorted(by_prompt.values(), key=min)
    if len(order) < 2:
        raise BadInputError(f"{path}: needs at least 2 problems, has {len(order)}", param="task.path")
    held_out = order[: min(task.eval_count, len(order) // 2)]
    rest = order[len(held_out) :]
    if measuring.probes is not None:
        chosen, probes = [], _probes_of_file(measuring.probes, measuring.probe_count)
    else:
        chosen = rest[: min(measuring.probe_count, len(rest) // 2)]
        probes = [problems[min(digests)].messages for digests in chosen]
        if len(chosen) < min(LEAST_PROBES, measuring.probe_count):
            raise BadInputError(
                f"{path} has {len(order)} problems: {len(held_out)} are held out, and half of the others are "
                f"{len(chosen)} probes, too few to measure entropy; add problems, lower entropy.probe_count or "
                "task.eval_count, or name a file of probes in entropy.probes",
                param="task.path",
            )
    kept = {digest for digests in (*held_out, *chosen) for digest in digests}
    return TaskData(
        train=[problem for digest, problem in problems.items() if digest not in kept],
        held_out=[problems[min(digests)] for digests in held_out],
        probes=probes,
    )


def _probes_of_file(path: Path, count: int) -> list[Messages]:
    """The first `count` prompts of a file."""
    lines = read_json_lines(path, expected=PROMPT, param="entropy.probes")
    probes = [prompt_of(place, values) for place, values in lines]
    if len(probes) < count:
        raise BadInputError(
            f"{path} holds {len(probes)} probes, fewer than entropy.probe_count = {count}; "
            "add probes or lower probe_count",
            param="entropy.probe_count",
        )
    return probes[:count]
