"""Records from files: JSON lines, JSON arrays and parquet, one by one or as the files of a data set."""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from reheatd.errors import BadInputError
from reheatd.json_lines import Place, json_object, parse_json, read_file, read_json_lines
from reheatd.tasks.fields import EXPECTED

CARD = "README.md"
SUFFIXES = (".parquet", ".jsonl", ".json")
SPLITS = ("train", "validation", "valid", "dev", "test")
"""Names of splits that file and folder names have."""
ROWS_AT_ONCE = 1024

Record = tuple[Place, dict[str, Any]]


def read_records(file: Path) -> Iterator[Record]:
    """The records of a file with their places: of a `.parquet`, a `.json` that holds an array, or JSON lines.

    Raises:
        BadInputError: The file cannot be read, or holds something else; the message names file and line.
    """
    if file.suffix == ".parquet":
        return _parquet_rows(file)
    if file.suffix == ".json" and (content := read_file(file, "task.path")).lstrip().startswith(b"["):
        return _array_items(file, content)
    return read_json_lines(file, expected=EXPECTED, param="task.path")


def folder_files(folder: Path, subset: str | None, split: str | None) -> list[Path]:
    """The files of one split of a data set in a local folder.

    Raises:
        BadInputError: As for `choose_files`.
    """
    # Links are followed, because the hub's cache consists of them.
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    card = folder / CARD if CARD in files else None
    return [folder / file for file in choose_files(files, card, subset=subset, split=split, where=str(folder))]


def choose_files(
    files: Iterable[str], card: Path | None, *, subset: str | None, split: str | None, where: str
) -> list[str]:
    """The files of one split of one subset of a data set, in order.

    Subsets and splits are those that the card declares, as the Hugging Face hub shows them. Without a declaration, file
    and folder names tell: `main/train-00000-of-00001.parquet` or `train.jsonl`. A file that names no split is of
    `train`.

    Args:
        files: Paths inside the data set, with `/`.
        card: Its README.md, if it has one.
        subset, split: None takes the only one there is, or the one called `default` or `main`, and `train`.
        where: The data set, for messages.

    Raises:
        BadInputError: There is no such subset or split, or it has to be named; the message lists those there are. Or
            the card cannot be read.
    """
    readable = sorted(file for file in files if PurePosixPath(file).suffix in SUFFIXES)
    found = _declared(card, readable) or _by_name(readable)
    if not found:
        raise BadInputError(f"{where} holds no {', '.join(SUFFIXES[:-1])} or .json file", param="task.path")
    splits = found[_one_of([*found], subset, ("default", "main"), "subset", where)]
    return splits[_one_of([*splits], split, ("train",), "split", where)]


def _one_of(
    found: Sequence[str] | dict[str, Any], wanted: str | None, usual: Sequence[str], what: str, where: str
) -> str:
    names = list(found)
    if wanted is None:
        likely = names if len(names) == 1 else [name for name in usual if name in names]
        if not likely:
            raise BadInputError(
                f"{where} has the {what}s {', '.join(names)}; name one in task.{what}", param=f"task.{what}"
            )
        return likely[0]
    if wanted not in names:
        raise BadInputError(f"{where} has no {what} {wanted!r}; it has {', '.join(names)}", param=f"task.{what}")
    return wanted


def _declared(card: Path | None, files: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Files by subset and split, as the front matter of a data set's card declares them (`configs`)."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    if card is None:
        return {}
    found: dict[str, dict[str, list[str]]] = {}
    try:
        declared: dict[str, Any] = metadata_load(card) or {}
        for config in declared.get("configs") or ():
            parts: Any = config.get("data_files") or ()
            for part in parts if isinstance(parts, list) else [parts]:
                split, patterns = ("train", part) if isinstance(part, str) else (part["split"], part["path"])
                patterns = patterns if isinstance(patterns, list) else [patterns]
                matching = [file for file in files if any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)]
                if matching:
                    found.setdefault(str(config["config_name"]), {}).setdefault(str(split), []).extend(matching)
    except (YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"{card}: what it declares between its --- lines cannot be read ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); correct it, or name the files instead of the folder",
            param="task.path",
        ) from error
    return found


def _by_name(files: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Files by subset, which is the outermost folder, and split."""
    found: dict[str, dict[str, list[str]]] = {}
    for file in files:
        path = PurePosixPath(file)
        words = [re.split(r"[-_.\d]", part)[0] for part in reversed(path.parts)]
        split = next((word for word in words if word in SPLITS), "train")
        top = path.parts[0] if len(path.parts) > 1 else "data"
        subset = "default" if top == "data" or top in SPLITS else top
        found.setdefault(subset, {}).setdefault(split, []).append(file)
    return found


def _array_items(file: Path, content: bytes) -> Iterator[Record]:
    whole = Place(str(file), EXPECTED, "task.path")
    try:
        items = parse_json(content)
    except ValueError as error:
        raise whole.error(str(error)) from error
    for number, item in enumerate(items, start=1):
        place = Place(f"{file}, item {number}", EXPECTED, "task.path")
        yield place, json_object(place, item)


def _parquet_rows(file: Path) -> Iterator[Record]:
    """The rows of a parquet file; columns that hold bytes, such as images, are left out."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as parquet:
            columns = [field.name for field in parquet.schema_arrow if not _holds_bytes(field.type)]
            number = 0
            for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield Place(f"{file}, row {number}", EXPECTED, "task.path"), row
    except FileNotFoundError as error:
        raise BadInputError(f"{file} cannot be read: No such file or directory", param="task.path") from error
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        cause = str(error).partition("\n")[0]
        raise BadInputError(f"{file} cannot be read as parquet: {cause}", param="task.path") from error


def _holds_bytes(kind: Any) -> bool:
    import pyarrow

    inner = [kind.field(index).type for index in range(kind.num_fields)]
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) or any(map(_holds_bytes, inner))
