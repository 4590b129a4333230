"""Puts the HTTP server together: which routes are on which port, each behind the guard."""

import socket
from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Route

from reheatd.access.guard import OPEN_PATHS, ROLLOUT_ADAPTER, Access, Guard
from reheatd.api.errors import exception_handlers
from reheatd.process.http_server import HttpServer


def build_server(
    access: Access,
    client_routes: Sequence[Route],
    admin_routes: Sequence[Route],
    listener: socket.socket,
    admin_listener: socket.socket | None,
    *,
    drain_timeout_s: float,
    certificate: tuple[Path, Path] | None,
) -> HttpServer:
    """The server of all routes on one port or, with an `admin_listener`, of administration on a port of its own.

    `/health` is on both ports then, and so are the routes of rollout adapters, because a job asks them where it
    samples.
    """

    def app(*routes: Route) -> Guard:
        return Guard(Starlette(routes=routes, exception_handlers=exception_handlers()), access)

    if admin_listener is None:
        served = [(app(*client_routes, *admin_routes), listener)]
    else:
        shared = [route for route in admin_routes if route.path in OPEN_PATHS or ROLLOUT_ADAPTER.fullmatch(route.path)]
        served = [(app(*client_routes, *shared), listener), (app(*admin_routes), admin_listener)]
    return HttpServer(*served, drain_timeout_s=drain_timeout_s, certificate=certificate)
