"""Passes an engine's stream on to a client, as it comes.

A busy engine and the gateway share a machine's cores, and the engine sends an event per token and stream. So a chunk
goes from the engine's connection to the client's in one step of one task.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

import aiohttp
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from reheatd.engine.pool import Replica
from reheatd.errors import ReheatdError

T = TypeVar("T")


class EventFilter(Protocol):
    """Sees the events of a stream, and may change or withhold them."""

    def feed(self, chunk: bytes) -> bytes:
        """Takes the next bytes of the stream, and returns those that may be passed on."""
        ...

    def end(self) -> bytes:
        """The bytes that are left at the stream's end."""
        ...


class SplitEvents:
    """Cuts the bytes of a stream into its events, which may come in pieces and several at a time."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that `chunk` completes, each with the empty line that ends it."""
        if not self._pending and chunk.find(b"\n\n") == len(chunk) - 2 >= 0:
            return [chunk]  # what an engine writes at a time is nearly always one event
        *events, self._pending = (self._pending + chunk).split(b"\n\n")
        return [event + b"\n\n" for event in events]

    def end(self) -> bytes:
        """What is left at the stream's end: an event without the line that ends it, or nothing."""
        rest, self._pending = self._pending, b""
        return rest


class RelayedStream(Response):
    """An engine's stream as the answer to a client. It releases its claims when it ends, however it ends.

    If the client leaves, the connection to the engine is closed, which makes the engine stop generating. If the engine
    breaks off or falls silent, an error event ends the stream.

    Args:
        filters: What the bytes go through, in this order.
        claims: Closed at the end.
        failed: Called with what kept the engine from finishing the stream; returns the error that the client gets.
        names_events: Whether the stream's events have names, so that the error needs one too.
    """

    def __init__(
        self,
        upstream: aiohttp.ClientResponse,
        replica: Replica,
        filters: Sequence[EventFilter],
        claims: ExitStack,
        headers: dict[str, str],
        failed: Callable[[aiohttp.ClientError], ReheatdError],
        names_events: bool = False,
    ) -> None:
        self.status_code = upstream.status
        self.background = None
        self.init_headers(headers)
        self._upstream = upstream
        self._replica = replica
        self._filters = filters
        self._claims = claims
        self._failed = failed
        self._names_events = names_events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A task of its own is woken directly, not through every layer between the server and this answer.
        relaying = asyncio.create_task(self._relay(send))
        leaving = asyncio.create_task(until_disconnected(receive))
        try:
            await asyncio.wait({relaying, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if relaying.done():
                relaying.result()
        finally:
            relaying.cancel()
            leaving.cancel()
            self._upstream.close()
            self._claims.close()

    async def _relay(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            while chunk := await self._upstream.content.readany():
                self._replica.hear()
                for each in self._filters:
                    chunk = each.feed(chunk)
                await _write(send, chunk)
            rest = b""
            for each in self._filters:
                rest = (each.feed(rest) if rest else b"") + each.end()
            await _write(send, rest)
        except aiohttp.ClientError as error:
            await _write(send, _event(self._failed(error), named=self._names_events))
        await send({"type": "http.response.body", "body": b""})


async def _write(send: Send, chunk: bytes) -> None:
    if chunk:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`. If the client hangs up first, the work is cancelled and the result is None."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(until_disconnected(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _event(error: ReheatdError, *, named: bool) -> bytes:
    body = {"type": "error", **error.openai_object()} if named else error.openai_object()
    return (b"event: error\n" if named else b"") + b"data: " + json.dumps(body).encode() + b"\n\n"
