"""Errors as HTTP answers."""

from starlette.responses import JSONResponse

from reheatd.errors import ReheatdError

RETRY_AFTER_S = "5"


def error_response(error: ReheatdError) -> JSONResponse:
    """The answer to a request that failed, as an OpenAI-style error."""
    headers: dict[str, str] = {}
    if error.status in (429, 503):
        headers["Retry-After"] = RETRY_AFTER_S if error.retry_after_s is None else str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="reheatd"'
    return JSONResponse(error.openai_object(), error.status, headers=headers)
