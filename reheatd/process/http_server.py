"""The daemon's HTTP server: uvicorn on a socket that is already bound, started and drained by the daemon."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

KEEP_ALIVE_S = 75
"""How long an idle connection is kept. It is longer than clients keep one for their next request (httpx 5 s, aiohttp
15 s), because a request is lost if the server closes the connection at that moment."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The daemon handles signals itself, because it has children to stop after the last request.
        yield


class HttpServer:
    """Serves `app` on `listener` until `drain`."""

    def __init__(self, app: ASGIApp, listener: socket.socket, *, drain_timeout_s: float) -> None:
        self._server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=round(drain_timeout_s),
            )
        )
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="http server")

    async def wait(self) -> None:
        """Waits until the server has ended, which only `drain` or an error causes; the error is raised here."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def drain(self) -> None:
        """Stops accepting requests, and waits until those in flight have ended or their time is over."""
        self._server.should_exit = True
        await self.wait()

    def hurry(self) -> None:
        """Ends a drain at once."""
        self._server.force_exit = True
