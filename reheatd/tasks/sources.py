"""What `task.path` names: a file, a folder, a data set of the Hugging Face hub, or a source that is installed.

A source is a function in the entry-point group `reheatd.tasks`. `task.path = "NAME:ARGUMENT"` calls it with ARGUMENT
and the fields of `task.arguments`; it yields records like those of a file.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from reheatd.errors import BadInputError, ReheatdError
from reheatd.json_lines import Place, json_object
from reheatd.options import TaskOptions
from reheatd.tasks.fields import EXPECTED
from reheatd.tasks.files import SUFFIXES, Record, folder_files, read_records
from reheatd.tasks.hub import hub_files

GROUP = "reheatd.tasks"
NAMED = re.compile(r"([A-Za-z_][\w-]*):(.*)", re.DOTALL)
ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(@.+)?")

Source = Callable[..., Iterable[dict[str, Any]]]


def source_name(path: Path | None) -> str | None:
    """The name of the source that `task.path` names; None if it names files."""
    found = NAMED.fullmatch(str(path)) if path is not None and not path.exists() else None
    return found[1] if found else None


def from_anywhere(path: Path | None) -> Path | None:
    """What `task.path` names, for a process in another folder: a local file or folder as an absolute path."""
    return path if path is None or not is_local(path) else path.resolve()


def is_local(path: Path) -> bool:
    """Whether `task.path` names a local file or folder, which need not exist."""
    return not source_name(path) and not _on_hub(path)


def task_records(task: TaskOptions, default: Path) -> Iterator[Record]:
    """The records of a task with their places.

    Args:
        default: The file that is read if `task.path` is not set.

    Raises:
        BadInputError: They cannot be had, or an option is given that has no meaning for them; the message says which.
        MissingExtraError: The source needs a package that is not installed.
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
    if _on_hub(path):
        return hub_files(str(path), task.subset, task.split)
    for option in ("subset", "split"):
        if getattr(task, option) is not None:
            raise BadInputError(
                f"task.{option} has no meaning for {path}, which is one file; leave it out, or name the folder",
                param=f"task.{option}",
            )
    return [path]


def _on_hub(path: Path) -> bool:
    return not path.exists() and path.suffix not in SUFFIXES and ON_HUB.fullmatch(str(path)) is not None


def _of_source(path: str, arguments: dict[str, Any]) -> Iterator[Record]:
    name, argument = path.split(":", 1)
    source = _load(name, path)
    number = 0
    try:
        for number, record in enumerate(source(argument, **arguments), start=1):
            place = Place(f"{path}, record {number}", EXPECTED, "task.path")
            yield place, json_object(place, record)
    except ReheatdError:
        raise
    except Exception as error:  # a source is code of others, which may raise anything
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        where = f"{path} failed after {number} records" if number else f"{path} cannot be used"
        raise BadInputError(f"{where}: {cause}; see task.path and task.arguments", param="task.path") from error


def _load(name: str, path: str) -> Source:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    installed: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in installed:
        raise BadInputError(
            f"{path}: no source of tasks is called {name}; use a file, a data set of the hub (owner/name), or "
            f"{', '.join(f'{known}:...' for known in sorted(installed))}",
            param="task.path",
        )
    try:
        return installed[name].load()
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInputError(f"{path}: {installed[name].value} cannot be loaded: {cause}", param="task.path") from error
