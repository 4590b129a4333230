"""Parameters of requests to the admin API. Each function raises a `BadInputError` that names its parameter."""

from starlette.requests import Request

from reheatd.errors import BadInputError
from reheatd.names import parse_version


def last(request: Request) -> int:
    """How many of the newest entries are asked for; 100 unless the request says so."""
    text = request.query_params.get("last", "100")
    if not (text.isascii() and text.isdigit() and len(text) < 7 and 0 < int(text) <= 100_000):
        raise BadInputError(f"last = {text!r} is not a number from 1 to 100000", param="last")
    return int(text)


def step(request: Request) -> int | None:
    """The step that is asked for; None for all."""
    text = request.query_params.get("step")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInputError(f"step = {text!r} is not a number from 0 up", param="step")
    return None if text is None else int(text)


def any_base(request: Request) -> bool:
    """Whether an import may come from a base of another name."""
    text = request.query_params.get("any_base", "false")
    if text not in ("true", "false"):
        raise BadInputError(f"any_base = {text!r} is neither true nor false", param="any_base")
    return text == "true"


def after(request: Request) -> int | None:
    """The entry of the journal after which events are asked for; None for those from now on.

    A browser that comes back names the last one it got in a header; the URL is still that of its first request.
    """
    name, text = "Last-Event-ID", request.headers.get("last-event-id")
    if text is None:
        name, text = "after", request.query_params.get("after")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadInputError(f"{name} = {text[:80]!r} is not the number of an entry of the journal", param="after")
    return None if text is None else int(text)


def version(request: Request) -> int:
    """The number of the version in the route."""
    return parse_version(request.path_params["version"])
