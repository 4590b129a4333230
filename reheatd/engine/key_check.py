"""vLLM middleware that asks for the engine's API key on every route but the health check.

vLLM itself asks for it only below /v1. Among the other routes are some that generate (`/invocations`), some that read
other people's counts (`/metrics`), and in development mode some that run code in the engine.
"""

import hmac
import os

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HEALTH = "/health"


class RequireKey:
    """The middleware; vLLM makes it with the application that it wraps. It reads the key from the environment."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] == HEALTH or self._has_key(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            answer = JSONResponse({"error": {"message": "this engine answers only its own daemon", "code": 401}}, 401)
            await answer(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)
