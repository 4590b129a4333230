"""Turns every error of the API into an OpenAI-style object."""

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reheatd.access.answers import error_response
from reheatd.errors import NotFoundError, ReheatdError

Handler = Callable[[Request, Exception], Coroutine[Any, Any, Response]]


class MethodNotAllowedError(ReheatdError):
    """A path of the HTTP API was asked with a method that it does not take.

    What to do: `GET /openapi.json` lists every path with its methods.
    """

    code = "method_not_allowed"
    type = "invalid_request_error"
    status = 405
    exit_code = 2


class InternalError(ReheatdError):
    """An error that is a bug of reheatd.

    What to do: The daemon's log has the traceback. Report it with the traceback and the version (`reheatd
    --version`).
    """


async def _reheatd_error(request: Request, error: Exception) -> Response:
    return error_response(error if isinstance(error, ReheatdError) else InternalError(repr(error)))


async def _http_exception(request: Request, error: Exception) -> Response:
    """Answers Starlette's own 404 and 405."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = {404: "does not exist", 405: "does not take this method"}.get(status, str(error))
    body = {
        "message": f"{request.method} {request.url.path} {what}",
        "type": "invalid_request_error",
        "param": None,
        "code": {404: NotFoundError.code, 405: MethodNotAllowedError.code}.get(status),
    }
    headers = error.headers if isinstance(error, HTTPException) else None
    return JSONResponse({"error": body}, status, headers=dict(headers or {}))


async def _bug(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, so the server logs the traceback.
    return error_response(InternalError("internal error; the daemon's log has the traceback"))


def exception_handlers() -> dict[Any, Handler]:
    """The handlers to pass to `Starlette(exception_handlers=...)`."""
    return {ReheatdError: _reheatd_error, HTTPException: _http_exception, Exception: _bug}
