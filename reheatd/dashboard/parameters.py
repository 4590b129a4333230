"""What the query of a page asks for. A field of a form that was left empty counts as not given.

Each function raises a `BadInputError` that names its parameter.
"""

import math
from collections.abc import Collection
from datetime import datetime
from urllib.parse import urlencode

from starlette.requests import Request

from reheatd.errors import BadInputError

LONGEST = 200


def text(request: Request, name: str) -> str | None:
    """A short text; None if it is not given."""
    value = request.query_params.get(name, "").strip()
    if len(value) > LONGEST:
        raise BadInputError(
            f"{name} has {len(value)} characters, more than the {LONGEST} that are looked for", param=name
        )
    return value or None


def choice(request: Request, name: str, known: Collection[str]) -> str | None:
    """One of some words; None if it is not given."""
    value = text(request, name)
    if value is not None and value not in known:
        raise BadInputError(f"{name} = {value!r} is none of {', '.join(known)}", param=name)
    return value


def whole(request: Request, name: str, least: int = 0) -> int | None:
    """A whole number; None if it is not given."""
    value = text(request, name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 16 and int(value) >= least):
        raise BadInputError(f"{name} = {value!r} is not a whole number from {least} up", param=name)
    return int(value)


def number(request: Request, name: str) -> float | None:
    """A number; None if it is not given."""
    value = text(request, name)
    if value is None:
        return None
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise BadInputError(f"{name} = {value!r} is not a number", param=name)
    return found


def moment(request: Request, name: str) -> float | None:
    """A point in time in seconds since the epoch, without a zone in that of the daemon; None if it is not given."""
    value = text(request, name)
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise BadInputError(f"{name} = {value!r} is not a time like 2026-01-31T18:30", param=name) from error


def several(request: Request, name: str, most: int) -> list[str]:
    """The values of a parameter that may come several times, each once."""
    values = list(dict.fromkeys(value.strip() for value in request.query_params.getlist(name) if value.strip()))
    if len(values) > most:
        raise BadInputError(f"{name} comes {len(values)} times, more than the {most} that can be shown", param=name)
    return values


def link(request: Request, **changed: object) -> str:
    """The address of this page with some parameters changed; None takes one out, and those left empty are left out."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in changed and value]
    query = urlencode([*kept, *((name, str(value)) for name, value in changed.items() if value is not None)])
    return f"{request.url.path}?{query}" if query else request.url.path


def query(request: Request, *names: str) -> str:
    """The part of the address that holds these parameters, with its question mark; empty if none is given."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name in names and value]
    return f"?{urlencode(kept)}" if kept else ""
