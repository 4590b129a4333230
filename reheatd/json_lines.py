"""Files of JSON lines as users write them: tasks, prompts, probes and recorded windows."""

import codecs
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from reheatd.errors import BadInputError
from reheatd.text import UTF_16, flaw

LONGEST_LINE = 4 << 20
"""Largest number of bytes in a line."""
DEEPEST = 64
"""Largest number of levels of lists and objects inside each other."""
PROMPT = '{"messages": [{"role": ..., "content": ...}]} or {"prompt": "..."}'

Message = dict[str, Any]
Messages = list[Message]
Prompts = Sequence[Messages]


@dataclass(frozen=True)
class Place:
    """The place of an object in a file, for messages about the object."""

    where: str
    """File and line, as they are named to the user."""
    expected: str
    """What such an object must look like."""
    param: str | None
    """The option that names the file."""

    def error(self, reason: str) -> BadInputError:
        """An error to raise that says where the object is, what is wrong with it and what was expected."""
        return BadInputError(f"{self.where}: {reason}; expected {self.expected}", param=self.param)


def read_json_lines(file: Path, *, expected: str, param: str | None) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yields the objects of `file`, one per line, with their places; blank lines are skipped.

    Raises:
        BadInputError: The file cannot be read, or a line is not a JSON object; the message names file and line.
    """
    return json_lines(read_file(file, param), str(file), expected=expected, param=param)


def json_lines(
    content: bytes, name: str, *, expected: str, param: str | None
) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yields objects like `read_json_lines`, from the content of a file called `name`."""
    if content.startswith(UTF_16):
        raise BadInputError(f"{name} is UTF-16 or UTF-32, by its first bytes; save it as UTF-8", param=param)
    # Not `splitlines`, because JSON may hold U+2028 and similar characters unescaped.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = Place(f"{name}, line {number}", expected, param)
        if len(line) > LONGEST_LINE:
            raise place.error(f"has {len(line)} bytes, more than the {LONGEST_LINE} that a line may have")
        try:
            value = parse_json(line)
        except ValueError as error:
            raise place.error(str(error)) from error
        yield place, json_object(place, value)


def read_file(file: Path, param: str | None) -> bytes:
    """The content of `file` without a byte order mark.

    Raises:
        BadInputError: The file cannot be read.
    """
    try:
        return file.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise BadInputError(f"{file} cannot be read: {error.strerror or error}", param=param) from error


def parse_json(text: bytes) -> Any:
    """The JSON value in `text`.

    Raises:
        ValueError: The text is not UTF-8 or not JSON, is nested too deeply, or holds a number that is not finite or a
            text that no tokenizer takes; the message is one line.
    """
    too_deep = f"lists and objects are nested in more than {DEEPEST} levels"
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise ValueError(too_deep) from error
    if _is_deeper(value, DEEPEST):
        raise ValueError(too_deep)
    if b"\\u" in text:  # without escapes, JSON in UTF-8 cannot hold what is looked for
        _check_texts(value)
    return value


def json_object(place: Place, value: Any) -> dict[str, Any]:
    """Returns `value`, which must be an object.

    Raises:
        BadInputError: The value is not an object.
    """
    if not isinstance(value, dict):
        raise place.error(f"needs a JSON object, got {type(value).__name__}")
    return value


def prompt_text(place: Place, name: str, value: Any) -> str:
    """The text of a prompt in the field `name`.

    Raises:
        BadInputError: The value is no text, or empty.
    """
    if not _is_text(value):
        raise place.error(f'"{name}" must be text that is not empty, got {shortened(value)}')
    return value


def read_messages(place: Place, name: str, value: Any) -> Messages:
    """The chat messages in the field `name`, without their fields that are null.

    Raises:
        BadInputError: The value is no list of messages, or a message lacks its role or text.
    """
    if not isinstance(value, list) or not value:
        raise place.error(f'"{name}" must be a list of at least one message')
    for message in value:
        for key in ("role", "content"):
            if not isinstance(message, dict) or not _is_text(message.get(key)):
                raise place.error(f'"{name}" holds a message without text as "{key}"')
    return [{key: part for key, part in message.items() if part is not None} for message in value]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"not valid JSON ({name} is not a number)")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"holds {text[:40]}, which is too large for a number")
    return value


def _check_texts(value: Any) -> None:
    if isinstance(value, str):
        if problem := flaw(value):
            raise ValueError(f"{problem}; leave it out")
    elif isinstance(value, dict | list):
        for each in value if isinstance(value, list) else [*value, *value.values()]:
            _check_texts(each)
