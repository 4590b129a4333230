"""A load generator that costs little: it keeps connections alive, prepares one request and only counts answer bytes."""

import asyncio
import time
from dataclasses import dataclass
from typing import cast

import numpy as np
import uvloop


@dataclass(frozen=True)
class Load:
    """The answers to a load, with times in seconds."""

    latencies: np.ndarray
    seconds: float

    @property
    def requests_per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent)) * 1e3


def run_load(port: int, path: str, body: bytes, *, connections: int, seconds: float, key: str = "sk-bench") -> Load:
    """Posts `body` to 127.0.0.1:`port`; each connection waits for its answer before it asks again.

    Args:
        key: API key that every request carries.

    Raises:
        RuntimeError: An answer was not 200, or a connection was closed.
    """
    request = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body
    return uvloop.run(_run(port, request, connections, seconds))


async def _run(port: int, request: bytes, connections: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    clients = [_Client(request, loop) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
        await client.connected
    started = time.perf_counter()
    for client in clients:
        client.begin(started + seconds)
    await asyncio.gather(*(client.done for client in clients))
    elapsed = time.perf_counter() - started
    return Load(np.concatenate([client.latencies for client in clients]), elapsed)


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.connected: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.latencies: list[float] = []
        self._request = request
        self._received = bytearray()
        self._missing = 0
        self._deadline = self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.connected.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"the server closed the connection: {exc}"))

    def begin(self, deadline: float) -> None:
        self._deadline = deadline
        self._ask()

    def _ask(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        if not head.startswith(b"http/1.1 200"):
            self.done.set_exception(RuntimeError(bytes(self._received[:500]).decode(errors="replace")))
            self._transport.abort()
            return
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length:
            return
        now = time.perf_counter()
        self.latencies.append(now - self._sent)
        self._received.clear()
        if now < self._deadline:
            self._ask()
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()
