"""Finds a run's log in a file or folder, by its format, and reads it."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from reheatd.errors import BadInputError, NotFoundError
from reheatd.runlog.log import RunLog
from reheatd.runlog.metric_names import Signal, bare, known
from reheatd.runlog.tensorboard_files import read_tensorboard
from reheatd.runlog.text_files import read_csv, read_json, read_json_lines_log
from reheatd.runlog.wandb_files import read_wandb

Reader = Callable[[Path], RunLog]

FORMATS: dict[str, Reader] = {
    "*tfevents*": read_tensorboard,
    "*.wandb": read_wandb,
    "trainer_state.json": read_json,
    "*.jsonl": read_json_lines_log,
    "*.csv": read_csv,
}
"""Files that are looked for in a folder. If a folder holds a run in several formats, the first one is read."""
ONLY_BY_NAME: dict[str, Reader] = {"*.json": read_json, "*.ndjson": read_json_lines_log, "*.log": read_json_lines_log}
"""Further files that are read if the user names them."""
EXPECTED = "TensorBoard event files, W&B's *.wandb, trainer_state.json, JSON lines or CSV"

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
"""Folder of a checkpoint of Hugging Face's trainers, whose trainer_state.json holds the run up to its step."""
HEAD = 1 << 20
"""Bytes at the beginning of a text file in which the name of a log's entropy must occur. Other files of JSON lines or
CSV in a run's folder, such as its rollouts, are not read."""


def read_run(path: Path, overrides: Mapping[Signal, str] | None = None) -> RunLog:
    """Reads the log of the run in `path`.

    Args:
        path: A log, or a folder with one, at any depth.
        overrides: Names of metrics that the user gave, by signal.

    Raises:
        NotFoundError: There is no such file or folder.
        BadInputError: It holds no log that can be read, or logs of several runs; the message lists them.
        MissingExtraError: The format needs a package that is not installed.
    """
    wanted = (overrides or {}).get("entropy")
    if not path.exists():
        raise NotFoundError(f"{path} does not exist; name a run's log or its folder", param="run")
    if path.is_file():
        reader = next((read for glob, read in (FORMATS | ONLY_BY_NAME).items() if path.match(glob)), None)
        if reader is None:
            raise BadInputError(f"{path} is of no known format; expected {EXPECTED}", param="run")
        log = reader(path)
        if not log.metrics:
            raise BadInputError(f"{path} holds no metric ({log.format})", param="run")
        return log
    without_entropy: list[RunLog] = []
    for glob, reader in FORMATS.items():
        logs = [reader(source) for source in _sources(path, glob, wanted)]
        runs = [log for log in logs if has_entropy(log.metrics, wanted)]
        if len(runs) > 1:
            listed = ", ".join(sorted(str(log.source) for log in runs))
            raise BadInputError(f"{path} holds {len(runs)} runs ({runs[0].format}); name one of {listed}", param="run")
        if runs:
            return runs[0]
        without_entropy += [log for log in logs if log.metrics]
    if without_entropy:
        # Whoever looks for the entropy in it says which metrics there are instead.
        return max(without_entropy, key=lambda log: len(log.metrics))
    raise BadInputError(f"{path} holds no log with an entropy; expected {EXPECTED}", param="run")


def has_entropy(names: Iterable[str], wanted: str | None) -> bool:
    """Whether a log with these metrics holds entropies, under the wanted name if there is one."""
    present = list(names)
    return wanted in present if wanted else known("entropy", present) is not None


def _sources(folder: Path, glob: str, wanted: str | None) -> list[Path]:
    """The logs of one format in `folder`: a file for each run, or the folder of its event files."""
    files = [file for file in sorted(folder.rglob(glob)) if file.is_file()]
    if glob == "*tfevents*":
        return sorted({file.parent for file in files})
    if glob == "trainer_state.json":
        return _newest_states(files)
    return files if glob == "*.wandb" else [file for file in files if _names_entropy(file, wanted)]


def _newest_states(files: Iterable[Path]) -> list[Path]:
    """Of the states of one run, the one with the longest history."""
    newest: dict[Path, tuple[float, Path]] = {}
    for file in files:
        checkpoint = CHECKPOINT.fullmatch(file.parent.name)
        run = file.parent.parent if checkpoint else file.parent
        age = float(checkpoint[1]) if checkpoint else float("inf")
        newest[run] = max(newest.get(run, (-1.0, file)), (age, file))
    return [file for _, file in newest.values()]


def _names_entropy(file: Path, wanted: str | None) -> bool:
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD).decode("utf-8", errors="replace")
    except OSError as error:
        raise BadInputError(f"{file} cannot be read: {error.strerror or error}", param="run") from error
    # Every name of an entropy in the table contains the word.
    return (bare(wanted) if wanted else "entropy") in head
