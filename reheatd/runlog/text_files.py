"""Reads logs that are text: CSV, JSON lines and `trainer_state.json` of Hugging Face's trainers."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reheatd.errors import BadInputError
from reheatd.json_lines import read_file
from reheatd.runlog.log import RunLog
from reheatd.text import decode


def read_csv(file: Path) -> RunLog:
    """Reads a CSV whose first line names the metrics.

    Raises:
        BadInputError: The file cannot be read, or a line has more values than the first one has names.
    """
    return RunLog.of_rows(file, "CSV", _csv_rows(file, _text(file)))


def read_json_lines_log(file: Path) -> RunLog:
    """Reads a file with one JSON object per step. A last line without an end is one that is being written.

    Raises:
        BadInputError: The file cannot be read, or a line is not a JSON object.
    """
    return RunLog.of_rows(file, "JSON lines", _json_rows(file, _text(file)))


def read_json(file: Path) -> RunLog:
    """Reads `trainer_state.json`, or the list `log_history` of one; a file of JSON lines may be called so as well.

    Raises:
        BadInputError: The file cannot be read, or it holds none of these.
    """
    text = _text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return RunLog.of_rows(file, "JSON lines", _json_rows(file, text))
    rows = content.get("log_history", [content]) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInputError(
            f"{file}: expected a trainer_state.json, whose log_history is a list of objects", param="run"
        )
    return RunLog.of_rows(file, "trainer state", rows)


def _text(file: Path) -> str:
    try:
        return decode(read_file(file, "run"))
    except ValueError as error:
        raise BadInputError(f"{file} {error}", param="run") from error


def _csv_rows(file: Path, text: str) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            if None in row:
                reason = f"more values than the {len(reader.fieldnames or [])} names of line 1"
                raise BadInputError(f"{file}, line {reader.line_num}: {reason}", param="run")
            yield {name: _number(value) for name, value in row.items()}
    except csv.Error as error:
        raise BadInputError(f"{file}, line {reader.line_num}: not CSV ({error})", param="run") from error


def _number(cell: str | None) -> float | None:
    try:
        return None if cell is None else float(cell)
    except ValueError:
        return None


def _json_rows(file: Path, text: str) -> Iterator[dict[str, Any]]:
    # Not `splitlines`, because JSON may hold U+2028 and similar characters unescaped.
    *lines, last = text.split("\n")
    for number, line in enumerate([*lines, last], start=1):
        if not line.strip():
            continue
        try:
            # Unlike reheatd's own files, a trainer's log may hold NaN.
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number > 1 and number == len(lines) + 1:
                return
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise BadInputError(f"{file}, line {number}: not valid JSON ({reason})", param="run") from error
        if not isinstance(row, dict):
            raise BadInputError(f"{file}, line {number}: needs a JSON object, got {type(row).__name__}", param="run")
        yield row
