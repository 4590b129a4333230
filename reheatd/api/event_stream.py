"""What happens in the daemon, as server-sent events.

Each event has the name of its kind and JSON as its data. Entries of the journal also have their number as the event's
id: a client that comes back with it gets the entries in between.
"""

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from reheatd.control.events import EntryAdded, Event, Subscription
from reheatd.gateway.stream import until_disconnected
from reheatd.process.http_server import abort

HEARTBEAT_S = 15.0
"""Longest time without a byte, so that proxies keep the connection open."""
RETRY_MS = 3000
"""When a browser that has lost the connection tries again."""
STUCK_S = 60.0
"""A client that takes nothing for so long is cut off."""
FAREWELL_S = 1.0
"""How long such a client can delay the stop of the daemon."""


class EventStream(Response):
    """The events of a subscription as the answer to a client. The subscription is closed when the stream ends.

    Args:
        stopping: Set when the daemon stops.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Subscription, stopping: asyncio.Event) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        self._events = events
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(until_disconnected(receive))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            with self._events:
                await asyncio.wait({writing, leaving, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    await asyncio.wait({writing, leaving}, timeout=FAREWELL_S, return_when=asyncio.FIRST_COMPLETED)
                is_stuck = not writing.done() or isinstance(writing.exception(), TimeoutError)
                if leaving.done():
                    return
                if is_stuck:
                    abort(scope)
                    await asyncio.wait({leaving}, timeout=FAREWELL_S)
                else:
                    writing.result()
        finally:
            for task in (writing, leaving, stopping):
                task.cancel()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # A client that is cut off before the first entry must know where it was, too.
        await _send(send, f"id: {self._events.after}\nretry: {RETRY_MS}\n\n")
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    event = await anext(self._events)
            except TimeoutError:
                await _send(send, ": nothing new\n\n")
            except StopAsyncIteration:
                break
            else:
                await _send(send, _block(event))
        await send({"type": "http.response.body", "body": b""})


def _block(event: Event) -> str:
    number = f"id: {event.entry.id}\n" if isinstance(event, EntryAdded) else ""
    return f"{number}event: {event.kind}\ndata: {event.model_dump_json()}\n\n"


async def _send(send: Send, text: str) -> None:
    """Sends a part of the stream.

    Raises:
        TimeoutError: The client takes nothing.
    """
    async with asyncio.timeout(STUCK_S):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
