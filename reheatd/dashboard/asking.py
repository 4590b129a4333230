"""Asks versions of the policy for pages, through the gateway's own route, as a client's request of whoever looks.

So a question holds a lease on its version, waits for an engine, is measured and is limited like every other request.
The answers come as streams, because one that is read whole would hold up the event loop with all its log-probabilities.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope

from reheatd.access.caller import caller_of
from reheatd.dashboard.tokens import Token
from reheatd.engine.client import WHOLE_DISTRIBUTION, TokenLogprobs
from reheatd.entropy.meter import EntropyMeter
from reheatd.errors import ReheatdError
from reheatd.gateway.app import VERSION_HEADER
from reheatd.gateway.stream import SplitEvents

CHAT_PATH = "/v1/chat/completions"
AT_ONCE = 4
"""Questions of one page that are asked at once, so that a page does not crowd out clients."""
LISTED = 5
"""Likeliest tokens that are kept of each position."""


@dataclass(frozen=True)
class Question:
    """What one version is asked."""

    model: str
    """Name of the version, or the alias."""
    messages: Sequence[Mapping[str, str]]
    temperature: float
    max_tokens: int
    seed: int | None = None


@dataclass(frozen=True)
class Answer:
    """What one version said, or why it said nothing."""

    model: str
    """The name that was asked."""
    version: str
    """Name of the version that answered; that which was asked if none did."""
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    is_cut: bool = False
    """Whether the answer ended at its largest number of tokens."""
    problem: str | None = None
    """Why there is no whole answer; None if there is one."""

    @property
    def mean_entropy(self) -> float | None:
        """Mean entropy over the tokens, in nats per token."""
        return sum(token.entropy for token in self.tokens) / len(self.tokens) if self.tokens else None


class AskingError(ReheatdError):
    """The gateway or the engine gave no answer to a question.

    What to do: The page says what it answered instead. If it was no answer at all, `reheatd status` says how the
    engines are.
    """

    code = "no_answer"
    status = 502


class Asker:
    """Asks questions.

    Args:
        gateway: The gateway's routes.
        meter: Says how many log-probabilities an estimate needs, and makes it.
    """

    def __init__(self, gateway: Sequence[Route], meter: EntropyMeter) -> None:
        self._gateway = Router(gateway)
        self._meter = meter

    async def ask(self, request: Request, questions: Sequence[Question]) -> list[Answer]:
        """The answers to all questions, in their order; a few are asked at once.

        If whoever sent `request` leaves, the engine stops answering.
        """
        places = asyncio.Semaphore(AT_ONCE)

        async def answer(question: Question) -> Answer:
            async with places:
                return await self._answer(request, question)

        return await asyncio.gather(*map(answer, questions))

    async def _answer(self, request: Request, question: Question) -> Answer:
        incoming = _Incoming()
        try:
            await self._gateway(_scope(request), _receiver(request, self._body(question)), incoming.take)
            incoming.finish()
            tokens = await asyncio.to_thread(self._tokens, question.model, incoming.rows)
        except ReheatdError as error:
            return Answer(question.model, incoming.version or question.model, text=incoming.text, problem=error.message)
        version, cut = incoming.version or question.model, incoming.finish_reason == "length"
        return Answer(question.model, version, incoming.text, tokens, cut)

    def _body(self, question: Question) -> bytes:
        body = {
            "model": question.model,
            "messages": list(question.messages),
            "temperature": question.temperature,
            "max_tokens": question.max_tokens,
            **WHOLE_DISTRIBUTION,
            # One more than the estimator reads, because a token drawn from outside the top displaces the last entry.
            "logprobs": True,
            "top_logprobs": self._meter.top_k + 1,
            "stream": True,
        }
        return json.dumps(body if question.seed is None else body | {"seed": question.seed}).encode()

    def _tokens(self, model: str, rows: list[dict[str, Any]]) -> list[Token]:
        """The tokens of an answer with the entropy of the states in which they were drawn.

        The estimate is the plug-in: it needs no fair draw, and unlike the unbiased one it does not depend on the token.
        """
        tops = [sorted(row["top_logprobs"], key=lambda top: -_number(top["logprob"])) for row in rows]
        drawn = [
            TokenLogprobs(_number(row["logprob"]), [_number(each["logprob"]) for each in top])
            for row, top in zip(rows, tops, strict=True)
        ]
        entropies = self._meter.estimates(model, drawn).plug_in_T.tolist() if drawn else []
        return [
            Token(
                text=row["token"],
                entropy=max(0.0, entropy),
                logprob=token.logprob,
                likeliest=[(each["token"], _number(each["logprob"])) for each in top[:LISTED]],
            )
            for row, token, top, entropy in zip(rows, drawn, tops, entropies, strict=True)
        ]


class _Incoming:
    """An answer as it comes in."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.text = ""
        self.rows: list[dict[str, Any]] = []
        """What the engine says of each token."""
        self.finish_reason: str | None = None
        self._status = 0
        self._is_stream = False
        self._events = SplitEvents()
        self._whole = b""

    async def take(self, message: Message) -> None:
        """Takes a message of the gateway, as an ASGI server would."""
        if message["type"] == "http.response.start":
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}
            self._status = message["status"]
            self._is_stream = headers.get("content-type", "").startswith("text/event-stream")
            self.version = headers.get(VERSION_HEADER)
        elif not self._is_stream:
            self._whole += message.get("body", b"")
        else:
            for event in self._events.feed(message.get("body", b"")):
                self._event(event)

    def finish(self) -> None:
        """Checks that the answer is whole.

        Raises:
            AskingError: It is an error, or was broken off.
        """
        if not self._is_stream:
            raise AskingError(_error_in(self._whole) or f"the engine answered with status {self._status}")
        if self.finish_reason is None:
            raise AskingError("the answer was broken off; ask again")

    def _event(self, event: bytes) -> None:
        data = event.strip().removeprefix(b"data:").strip()
        if not data.startswith(b"{"):
            return  # the end of the stream, or a comment that keeps it open
        if (problem := _error_in(data)) is not None:
            raise AskingError(problem)
        for choice in json.loads(data).get("choices", []):
            self.text += choice.get("delta", {}).get("content") or ""
            self.rows += (choice.get("logprobs") or {}).get("content") or []
            self.finish_reason = choice.get("finish_reason") or self.finish_reason


def _scope(request: Request) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": request.url.scheme,
        "path": CHAT_PATH,
        "raw_path": CHAT_PATH.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": request.scope.get("client"),
        "server": request.scope.get("server"),
        "state": {"caller": caller_of(request)},
    }


def _receiver(request: Request, body: bytes) -> Receive:
    """What the gateway receives: the body, and then the leaving of whoever sent `request`."""
    left = [body]

    async def receive() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await request.receive()

    return receive


def _error_in(content: bytes) -> str | None:
    """The message of an error object, in the gateway's or the engine's form; None if it is none."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return str(error.get("message"))
    return str(body["message"]) if isinstance(body, dict) and body.get("object") == "error" else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
