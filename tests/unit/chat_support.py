"""A gateway that streams what a test tells it to, in the engine's form."""

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from reheatd.access.caller import Caller, caller_of
from reheatd.gateway.app import VERSION_HEADER

SHARP = (0.97, 0.01, 0.01)
"""Probabilities of the three likeliest tokens where the policy is sure."""
FLAT = (0.04, 0.04, 0.03)


def row(token: str, probabilities: tuple[float, ...] = SHARP) -> dict[str, Any]:
    """What the engine says of a token, which is the likeliest."""
    tops = [math.log(probability) for probability in probabilities]
    listed = [{"token": token if not place else f"other{place}", "logprob": top} for place, top in enumerate(tops)]
    # One more than is read, as the engine sends it.
    return {"token": token, "logprob": tops[0], "top_logprobs": [*listed, {"token": "rare", "logprob": -9.0}]}


def events(rows: list[dict[str, Any]], finish: str | None = "stop") -> list[bytes]:
    """The stream of an answer of these tokens."""
    chunks: list[dict[str, Any]] = [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    chunks += [
        {"delta": {"content": each["token"]}, "logprobs": {"content": [each]}, "finish_reason": None} for each in rows
    ]
    if finish is not None:
        chunks[-1]["finish_reason"] = finish
    return [*(b"data: " + json.dumps({"choices": [chunk]}).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


def streamed(parts: list[bytes], version: str) -> Response:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return StreamingResponse(body(), media_type="text/event-stream", headers={VERSION_HEADER: version})


def refusal(status: int, message: str) -> Response:
    error = {"message": message, "type": "server_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status)


class FakeGateway:
    """Keeps what it was asked. By default every version says its name and how many messages it got."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.callers: list[Caller] = []
        self.answer: Callable[[dict[str, Any], Request], Awaitable[Response]] = self._echo

    def routes(self) -> list[Route]:
        return [Route("/v1/chat/completions", self._complete, methods=["POST"])]

    def says(self, answer: Callable[[dict[str, Any]], Response]) -> None:
        async def answered(body: dict[str, Any], request: Request) -> Response:
            return answer(body)

        self.answer = answered

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.callers.append(caller_of(request))
        return await self.answer(body, request)

    async def _echo(self, body: dict[str, Any], request: Request) -> Response:
        version = "policy-v0" if body["model"] == "policy" else body["model"]
        rows = [row("I"), row(" am"), row(f" {version}", FLAT), row(f"\n{len(body['messages'])}")]
        return streamed(events(rows), version)
