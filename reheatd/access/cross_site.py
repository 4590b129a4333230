"""Keeps web pages out that a user happens to visit: their requests come from the user's own machine.

A page may send simple requests to any address, loopback too, without being let read the answer; browsers say in
`Origin` and `Sec-Fetch-Site` whose page it is. And a page may make the name of its own server mean this machine (DNS
rebinding); then its requests have that name in `Host`. Programs that are no browsers send none of this.

It is plain ASGI and touches only the beginning of a request, so that streams flow as if it were not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from reheatd.access.answers import error_response
from reheatd.access.guard import OPEN_PATHS
from reheatd.config_server import ANY_ORIGIN, ServerSection, is_loopback
from reheatd.errors import NotPermittedError

HARMLESS = frozenset(("GET", "HEAD", "OPTIONS"))
"""Methods that change nothing."""
OF_OTHERS = frozenset(("cross-site", "same-site"))
"""What `Sec-Fetch-Site` says of a request that a page of another origin made."""
REFUSED = 1008
"""Code with which a socket is closed that may not be opened."""
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Origins:
    """Whose pages may ask, and by which names."""

    allowed: frozenset[str]
    """Origins whose pages may ask."""
    public_url: str | None
    """The server's own URL, where a proxy is in front."""
    hosts: frozenset[str] | None
    """Names in `Host` besides those of loopback; None where keys are needed, which pages do not have."""

    def check(self, method: str, headers: Mapping[str, str], path: str) -> None:
        """Checks a request by its headers.

        Raises:
            NotPermittedError: It comes from a page of another origin, or under a name that is not this server's.
        """
        host = headers.get("host", "")
        if self.hosts is not None and host and path not in OPEN_PATHS and not self._is_own_host(host, self.hosts):
            raise NotPermittedError(
                f"Host is {host[:200]!r}, which is no name of this server; if clients reach it by this name, set "
                "server.public_url to that URL, or ask for API keys (server.require_keys = true)",
                param="host",
            )
        if method in HARMLESS:
            return
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "")
        if origin is not None and (origin in self.allowed or ANY_ORIGIN in self.allowed):
            return
        if site in OF_OTHERS or (origin is not None and not self._is_own_origin(origin, host)):
            raise NotPermittedError(
                f"a web page of {(origin or 'another origin')[:200]} made this request; if its pages may ask this "
                "server, name the origin in server.cors_origins, or if it is the server's own, in server.public_url",
                param="origin",
            )

    def _is_own_host(self, host: str, others: frozenset[str]) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in others or is_loopback(name) or name.endswith(".localhost")

    def _is_own_origin(self, origin: str, host: str) -> bool:
        scheme = origin.partition("://")[0]
        try:
            place = _place(origin)
            own = [_place(f"{scheme}://{host}"), *([_place(self.public_url)] if self.public_url else [])]
        except ValueError:
            return False
        return place is not None and place in own


def _place(url: str) -> tuple[str, int | None] | None:
    """Host and port of a URL."""
    parts = urlsplit(url)
    return None if parts.hostname is None else (parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme))


def origins_of(server: ServerSection) -> Origins:
    """Whose pages may ask a server with these settings, and by which names."""
    public = server.public_url and urlsplit(server.public_url).hostname
    hosts = {server.host, *([] if server.admin_port is None else [server.admin_host]), *([public] if public else [])}
    return Origins(
        frozenset(server.cors_origins),
        server.public_url,
        None if server.needs_keys else frozenset(name.lower() for name in hosts),
    )


class CrossSiteGuard:
    """An ASGI application that passes requests on to `app`, unless a web page made them that may not."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                # A page may open a socket to any address, and read from it, so its opening is never harmless.
                self._origins.check(scope.get("method", "CONNECT"), Headers(scope=scope), scope["path"])
            except NotPermittedError as error:
                if scope["type"] == "http":
                    await error_response(error)(scope, receive, send)
                else:
                    await send({"type": "websocket.close", "code": REFUSED, "reason": "this page may not connect"})
                return
        await self._app(scope, receive, send)
