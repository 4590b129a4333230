"""Finds the length of rollouts that a job's specification leaves open, from answers of the policy it starts from."""

import logging
from pathlib import Path
from typing import TypeVar

from reheatd.errors import EngineError
from reheatd.files import write_atomically
from reheatd.jobs.contracts import JobBase
from reheatd.jobs.open_lengths import has_open_length, with_length
from reheatd.jobs.rollout_length import RolloutLength, deciding, room
from reheatd.task_data import TaskData
from workers.progress import ChannelProgress
from workers.sampling.seeds import seed_for
from workers.sampling.served import ServedSampler

Spec = TypeVar("Spec", bound=JobBase)

logger = logging.getLogger(__name__)

LENGTH_FILE = "found-length.json"
"""Where a worker keeps what it found, for another that resumes the job: all attempts have one length."""


def with_found_length(spec: Spec, sampler: ServedSampler, task: TaskData, progress: ChannelProgress) -> Spec:
    """The specification with a number for every length, and tells the daemon what was found.

    Args:
        sampler: Samples from the policy that the job starts from.

    Raises:
        BadInputError: A prompt leaves no room for an answer.
        EngineError: The gateway does not say how much the engine takes, or gave no answer.
    """
    if not has_open_length(spec):
        return spec
    file = spec.output_dir / LENGTH_FILE
    found = _read(file) or _find(sampler, task, progress, seed_for("length", spec.seed))
    write_atomically(file, found.model_dump_json().encode())
    logger.log(logging.WARNING if found.is_all_room else logging.INFO, "%s", found.explanation)
    progress.length(found)
    return with_length(spec, found.tokens)


def _read(file: Path) -> RolloutLength | None:
    """What an earlier attempt at the job found; None if none did."""
    return RolloutLength.model_validate_json(file.read_bytes()) if file.exists() else None


def _find(sampler: ServedSampler, task: TaskData, progress: ChannelProgress, seed: int) -> RolloutLength:
    progress.report("finding the length of rollouts", 0)
    max_model_len = sampler.max_model_len()
    problems = deciding(task.train)
    # Answers to held-out problems get the same length, and none of these problems may be left out.
    tried = [*problems, *task.held_out]
    left = room(tried, sampler.prompt_tokens([problem.messages for problem in tried]), max_model_len)
    prompts = [problem.messages for problem in problems]
    groups = sampler.sample(prompts, n=1, max_tokens=left, temperature=1.0, seed=seed)
    answers = [answer for group in groups for answer in group]
    if not answers:
        raise EngineError(f"{sampler.model} wrote no token in answer to any of {len(prompts)} problems; is it broken?")
    lengths = [len(answer.token_ids) for answer in answers]
    unended = sum(answer.truncated for answer in answers)
    return RolloutLength.of(lengths, unended, room=left, max_model_len=max_model_len)
