"""The daemon's HTTP server: uvicorn on a socket that is already bound, started and drained by the daemon."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

KEEP_ALIVE_S = 75
"""How long an idle connection is kept. It is longer than clients keep one for their next request (httpx 5 s, aiohttp
15 s), because a request is lost if the server closes the connection at that moment."""


ABORT = "reheatd.abort"
"""Name of the extension of the request's scope with which an application ends the connection at once."""


class _Protocol(HttpToolsProtocol):
    """One connection. It can be ended although the client takes nothing, which closing it would wait for."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(dict[str, Any], self.scope)["extensions"] = {ABORT: self.transport.abort}


def abort(scope: Scope) -> None:
    """Ends the connection of a request at once, if the server can; what was not sent is lost."""
    ending = scope.get("extensions", {}).get(ABORT)
    if ending is not None:
        ending()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The daemon handles signals itself, because it has children to stop after the last request.
        yield


class HttpServer:
    """Serves each application on its listener until `drain`.

    Args:
        certificate: PEM files of a certificate and of its key, with which all listeners speak TLS.
    """

    def __init__(
        self,
        *served: tuple[ASGIApp, socket.socket],
        drain_timeout_s: float,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        chain, key = certificate or (None, None)
        self._servers = [
            _Server(
                uvicorn.Config(
                    app,
                    http=_Protocol,
                    lifespan="off",
                    ws="none",
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_keep_alive=KEEP_ALIVE_S,
                    timeout_graceful_shutdown=round(drain_timeout_s),
                    ssl_certfile=chain,
                    ssl_keyfile=key,
                )
            )
            for app, _ in served
        ]
        self._listeners = [listener for _, listener in served]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for server, listener in zip(self._servers, self._listeners, strict=True):
            self._tasks.append(asyncio.create_task(server.serve(sockets=[listener]), name="http server"))

    async def wait(self) -> None:
        """Waits until the servers have ended, which only `drain` or an error causes; the error is raised here."""
        await asyncio.gather(*map(asyncio.shield, self._tasks))

    async def drain(self) -> None:
        """Stops accepting requests, and waits until those in flight have ended or their time is over."""
        for server in self._servers:
            server.should_exit = True
        await self.wait()

    def hurry(self) -> None:
        """Ends a drain at once."""
        for server in self._servers:
            server.force_exit = True
