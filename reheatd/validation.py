"""Turns pydantic's errors into messages that name the field, its value and what would be right."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import ErrorDetails

from reheatd.text import shown

WANTED = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "literal_error": "must be {expected}",
    "too_short": "must have at least {min_length} entries",
}
"""Messages by pydantic's name of the error; other errors keep pydantic's own message."""

SECRET_TABLES = ("broker",)
"""Tables whose values may hold a password, so that no message repeats them."""


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The dotted name of the first field that is wrong, and one line that says what is wrong with it.

    The name is empty if several values contradict each other and none is wrong by itself; the message names them.
    """
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if name.partition(".")[0] in SECRET_TABLES:
        wanted = _wanted(first)
        return name, wanted if wanted.startswith(f"{name} ") else f"{name}: {wanted}"
    if not name or first["type"] == "missing" or isinstance(first["input"], dict):
        return name, f"{name}: {_wanted(first)}" if name else _wanted(first)
    return name, f"{name} = {shown(first['input'])}: {_wanted(first)}"


def unknown_names(error: ValidationError) -> list[str]:
    """The dotted names in the input that no field has."""
    return [".".join(map(str, each["loc"])) for each in error.errors() if each["type"] == "extra_forbidden"]


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """Returns `did you mean ...?` if a known name is close, else `otherwise`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else otherwise


def _wanted(detail: ErrorDetails) -> str:
    template = WANTED.get(detail["type"])
    return detail["msg"].removeprefix("Value error, ") if template is None else template.format(**detail.get("ctx", {}))


def or_auto(value: Any, validate: ValidatorFunctionWrapHandler, kind: str) -> Any:
    """The validated value, or an error that names one kind of value instead of what each kind lacks."""
    try:
        return validate(value)
    except ValidationError as error:
        raise ValueError(f"must be {kind}, or 'auto'") from error
