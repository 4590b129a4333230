"""Answers while the server starts: what it waits for, from the first second on."""

from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from reheatd.access.answers import error_response
from reheatd.api.schemas import Readiness
from reheatd.errors import EngineUnavailableError


class StartingApp:
    """Answers every request with 503 and what the server waits for, until `app` is set, which then answers.

    Args:
        readiness: Says what the server waits for.
    """

    def __init__(self, readiness: Callable[[], str]) -> None:
        self.app: ASGIApp | None = None
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is not None:
            await self.app(scope, receive, send)
            return
        state = self._readiness()
        if scope["path"] == "/health":
            response = JSONResponse(Readiness(status=state).model_dump(), 503)
        else:
            response = error_response(EngineUnavailableError(f"the server is {state}; try again in a few seconds"))
        await response(scope, receive, send)
