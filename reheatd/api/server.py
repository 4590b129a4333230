"""Puts the HTTP server's applications together: which routes are on which port, each behind the guard."""

import socket
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from reheatd.access.cross_site import CrossSiteGuard, Origins
from reheatd.access.guard import OPEN_PATHS, ROLLOUT_ADAPTER, Access, Guard
from reheatd.api.errors import exception_handlers
from reheatd.api.starting import StartingApp
from reheatd.gateway.app import ENGINE_HEADER, REQUEST_ID_HEADER, VERSION_HEADER


class Doors:
    """What answers on each port: what the server waits for or, once they are open, the gateway and the admin API.

    Args:
        readiness: Says what the server waits for.
        admin_listener: Socket for administration alone; None if both are on `listener`.
    """

    def __init__(
        self, readiness: Callable[[], str], listener: socket.socket, admin_listener: socket.socket | None
    ) -> None:
        self._front = StartingApp(readiness)
        self._admin_front = None if admin_listener is None else StartingApp(readiness)
        self.served: list[tuple[ASGIApp, socket.socket]] = [(self._front, listener)]
        """An application for each listener."""
        if admin_listener is not None and self._admin_front is not None:
            self.served.append((self._admin_front, admin_listener))

    def open(
        self, access: Access, origins: Origins, client_routes: Sequence[Route], admin_routes: Sequence[Route]
    ) -> None:
        """Lets requests in.

        With a port for administration, `/health` is on both ports, and so are the routes of rollout adapters, because a
        job asks them where it samples.
        """
        if self._admin_front is None:
            self._front.app = _guarded(access, origins, *client_routes, *admin_routes)
            return
        shared = [route for route in admin_routes if route.path in OPEN_PATHS or ROLLOUT_ADAPTER.fullmatch(route.path)]
        self._front.app = _guarded(access, origins, *client_routes, *shared)
        self._admin_front.app = _guarded(access, origins, *admin_routes)


def _guarded(access: Access, origins: Origins, *routes: Route) -> ASGIApp:
    guard = Guard(Starlette(routes=routes, exception_handlers=exception_handlers()), access)
    app = CrossSiteGuard(guard, origins)
    if not origins.allowed:
        return app
    # It answers a browser's question whether a page may ask, which carries no key. Of other answers, it changes only
    # the headers.
    return CORSMiddleware(
        app,
        allow_origins=sorted(origins.allowed),
        allow_methods=("GET", "POST", "PUT", "DELETE"),
        allow_headers=("*",),
        expose_headers=(VERSION_HEADER, ENGINE_HEADER, REQUEST_ID_HEADER, "retry-after"),
    )
