"""Reads the daemon's answers: as what was asked for, or as the error that the daemon had."""

import json
from typing import Any

from pydantic import ValidationError

from reheatd import errors
from reheatd.access.client import KEY_ENV
from reheatd.client.requests import Answer, Request
from reheatd.errors import DaemonUnreachableError, ReheatdError
from reheatd.validation import first_problem

LONGEST_SHOWN = 200
"""Characters of an answer that nobody understands."""

KINDS: dict[str, type[ReheatdError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ReheatdError)
}
"""The errors by the code that the daemon answers with."""


class AnsweredError(ReheatdError):
    """The daemon answered with an error that has no class of its own; `code` and `status` are those of the answer."""

    def __init__(self, message: str, *, code: str, status: int, param: str | None = None) -> None:
        super().__init__(message, param=param)
        for name, value in {"code": code, "status": status, "exit_code": 2 if status < 500 else 1}.items():
            setattr(self, name, value)  # other errors have these of their class


class VersionMismatchError(ReheatdError):
    """The daemon answers what this client does not know, because the two are of different versions.

    What to do: Install the same version of reheatd where the client runs and where the daemon runs.
    """

    code = "version_mismatch"
    exit_code = 2


def read_answer(request: Request[Answer], url: str, status: int, content: bytes, retry_after: str | None) -> Answer:
    """The answer to a request.

    Args:
        url: The daemon's address, for messages.
        status: HTTP status.
        content: Body of the response.
        retry_after: Header `Retry-After`, if the response has one.

    Raises:
        ReheatdError: The daemon answered with an error.
        DaemonUnreachableError: What answers is not reheatd.
        VersionMismatchError: The answer has fields that this client does not know, or lacks some.
    """
    if not (200 <= status < 300 or status in request.also):
        raise _error(url, status, content, retry_after)
    try:
        return request.read(content)
    except ValidationError as error:
        if any(problem["type"] == "json_invalid" for problem in error.errors()):
            raise _not_reheatd(url, status) from error
        raise VersionMismatchError(
            f"the daemon at {url} answers what this version of reheatd does not know ({first_problem(error)[1]}); are "
            "both of one version?"
        ) from error
    except ValueError as error:
        raise _not_reheatd(url, status) from error


def _error(url: str, status: int, content: bytes, retry_after: str | None) -> ReheatdError:
    try:
        body = json.loads(content)
    except ValueError:
        return _not_reheatd(url, status)
    detail: Any = body.get("error") if isinstance(body, dict) else None
    if not isinstance(detail, dict) or "message" not in detail:
        shown = content[:LONGEST_SHOWN].decode(errors="replace")
        return AnsweredError(f"the daemon at {url} answered HTTP {status}: {shown}", code="unknown", status=status)
    hint = f"; set {KEY_ENV} to a key for administration" if status in (401, 403) else ""
    message, param, code = f"{detail['message']}{hint}", detail.get("param"), str(detail.get("code"))
    kind = KINDS.get(code)
    if kind is None:
        error = AnsweredError(message, code=code, status=status, param=param)
    else:
        error = kind(message, param=param)
    if retry_after is not None and retry_after.isdigit():
        error.retry_after_s = int(retry_after)
    return error


def _not_reheatd(url: str, status: int) -> DaemonUnreachableError:
    return DaemonUnreachableError(f"what answers at {url} is not reheatd (HTTP {status}); is the address right?")
