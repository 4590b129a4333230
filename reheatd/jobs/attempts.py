"""The folders of a job's attempts: each worker that is given a job writes into a folder of its own.

A worker that was taken for dead may wake, and write on, after another has taken its job over. It then changes nothing
that anybody reads: its successor began with copies of its files, and the daemon reads those of the newest attempt.
"""

import re
import shutil
from pathlib import Path
from typing import TypeVar

from reheatd.errors import ReheatdError
from reheatd.files import publish_folder
from reheatd.jobs.contracts import JobBase

Spec = TypeVar("Spec", bound=JobBase)

OWN = ("attempt-*", "rollout-*", "result", "report", ".*", "*.tmp")
"""Names that the next attempt does not take over: snapshots, a result that nobody was told of, and unfinished files.
The results of finished candidates stay where they are, because nothing changes them any more."""


def of_attempt(spec: Spec, attempt: int) -> Spec:
    """The specification with the folder of an attempt, which need not exist, as its `output_dir`."""
    return spec.model_copy(update={"output_dir": spec.output_dir / f"attempt-{attempt}"})


def newest_attempt(spec: Spec, attempt: int) -> Spec:
    """The specification with the folder of the newest attempt that began, no later than `attempt`, as its `output_dir`.

    A job of an earlier version of reheatd has no such folders; its files are in the job's own.
    """
    numbers = [number for number in _attempts(spec.output_dir) if number <= attempt]
    return of_attempt(spec, max(numbers)) if numbers else spec


def begin_attempt(spec: Spec, attempt: int) -> Spec:
    """Makes the folder of an attempt, with copies of what the attempt before it left, and returns as `of_attempt`.

    Call it after the attempt was claimed, so that only one worker makes the folder.

    Raises:
        ReheatdError: The folder cannot be written.
    """
    own, before = of_attempt(spec, attempt), newest_attempt(spec, attempt - 1)
    try:
        with publish_folder(own.output_dir) as scratch:
            if attempt > 1:
                shutil.copytree(
                    before.output_dir, scratch, symlinks=True, ignore=shutil.ignore_patterns(*OWN), dirs_exist_ok=True
                )
    except OSError as error:
        raise ReheatdError(
            f"{own.output_dir} cannot be made: {error.strerror or error}; free or repair the disk that holds data_dir "
            "and run the job again"
        ) from error
    return own


def _attempts(folder: Path) -> list[int]:
    found = (re.fullmatch(r"attempt-([1-9][0-9]*)", path.name) for path in folder.glob("attempt-*"))
    return [int(match[1]) for match in found if match]


def delete_checkpoints(spec: JobBase) -> None:
    """Deletes the checkpoints of all attempts at a job that needs them no more."""
    for checkpoint in spec.output_dir.rglob(spec.checkpoint_file.name):
        checkpoint.unlink(missing_ok=True)
