"""What `task.path` names: a file, a folder, a data set of the Hugging Face hub, or a source that is installed.

A source is a function in the entry-point group `reheatd.tasks`. `task.path = "NAME:ARGUMENT"` calls it with ARGUMENT
and the fields of `task.arguments`; it yields records like those of a file.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reheatd.errors import BadInputError
from reheatd.json_lines import Place, json_object
from reheatd.options import TaskOptions
from reheatd.tasks import source_process
from reheatd.tasks.fields import EXPECTED
from reheatd.tasks.files import SUFFIXES, Record, folder_files, read_records
from reheatd.tasks.hub import hub_files
from reheatd.tasks.source_process import installed_sources

NAMED = re.compile(r"([A-Za-z_][\w-]*):(.*)", re.DOTALL)
ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(@.+)?")
MOST_RECORDS = 2_000_000
"""Records of an installed source, at most. A generator may have no end, and all problems are kept in memory."""


def source_name(path: Path | None) -> str | None:
    """The name of the source that `task.path` names; None if it names files."""
    found = NAMED.fullmatch(str(path)) if path is not None and not path.exists() else None
    return found[1] if found else None


def from_anywhere(path: Path | None) -> Path | None:
    """What `task.path` names, for a process in another folder: a local file or folder as an absolute path."""
    return path if path is None or not is_local(path) else path.resolve()


def is_local(path: Path) -> bool:
    """Whether `task.path` names a local file or folder, which need not exist."""
    return not source_name(path) and not on_hub(path)


def task_records(task: TaskOptions, default: Path) -> Iterator[Record]:
    """The records of a task with their places.

    Args:
        default: The file that is read if `task.path` is not set.

    Raises:
        BadInputError: They cannot be had, or an option is given that has no meaning for them; the message says which.
    """
    path = task.path or default
    if source_name(path):
        for option in ("subset", "split"):
            if getattr(task, option) is not None:
                raise BadInputError(
                    f"task.{option} has no meaning for {path}; what its source takes goes into task.arguments",
                    param=f"task.{option}",
                )
        yield from _of_source(str(path), task.arguments)
        return
    if task.arguments:
        raise BadInputError(
            f"task.arguments has no meaning for the files of {path}; leave it out", param="task.arguments"
        )
    for file in _files(path, task):
        yield from read_records(file)


def _files(path: Path, task: TaskOptions) -> list[Path]:
    if path.is_dir():
        return folder_files(path, task.subset, task.split)
    if on_hub(path):
        return hub_files(str(path), task.subset, task.split)
    for option in ("subset", "split"):
        if getattr(task, option) is not None:
            raise BadInputError(
                f"task.{option} has no meaning for {path}, which is one file; leave it out, or name the folder",
                param=f"task.{option}",
            )
    return [path]


def on_hub(path: Path) -> bool:
    """Whether a task's path means a data set of the Hugging Face hub."""
    return not path.exists() and path.suffix not in SUFFIXES and ON_HUB.fullmatch(str(path)) is not None


def _of_source(path: str, arguments: dict[str, Any]) -> Iterator[Record]:
    name, argument = path.split(":", 1)
    if name not in installed_sources():
        raise BadInputError(
            f"{path}: no source of tasks is called {name}; use a file, a data set of the hub (owner/name), or "
            f"{', '.join(f'{known}:...' for known in sorted(installed_sources()))}",
            param="task.path",
        )
    reply: dict[str, Any] = {}
    number = 0
    command = [sys.executable, "-P", "-m", source_process.__name__, name, argument, json.dumps(arguments)]
    with subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if not line.endswith(b"\n"):  # the process died while it wrote
                    reply = {}
                    break
                reply = json.loads(line)
                if "record" in reply:
                    number += 1
                    if number > MOST_RECORDS:
                        raise BadInputError(
                            f"{path} gives more than {MOST_RECORDS:,} records; see what in task.arguments limits them",
                            param="task.path",
                        )
                    place = Place(f"{path}, record {number}", EXPECTED, "task.path")
                    yield place, json_object(place, reply["record"])
        finally:
            process.kill()
    if "done" not in reply:
        cause = reply.get("error", "its process ended")
        where = f"{path} failed after {number} records" if number else f"{path} cannot be used"
        raise BadInputError(f"{where}: {cause}; see task.path and task.arguments", param="task.path")


def _environment() -> dict[str, str]:
    """The environment of a source's process: ours without its secrets, and with a fixed seed for hashes."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("REHEATD_", "VLLM_"))}
    return {**own, "PYTHONHASHSEED": "0"}
