"""Which routes are on which port, each behind the guard."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import Route

from reheatd.access.guard import OPEN_PATHS, ROLLOUT_ADAPTER, Access, Guard
from reheatd.api.errors import exception_handlers


def build_apps(
    access: Access, client_routes: Sequence[Route], admin_routes: Sequence[Route], *, ports: int
) -> list[Guard]:
    """The application of each port: one with all routes or, on two ports, that of clients and that of administration.

    `/health` is on both ports then, and so are the routes of rollout adapters, because a job asks them where it
    samples.
    """

    def app(*routes: Route) -> Guard:
        return Guard(Starlette(routes=routes, exception_handlers=exception_handlers()), access)

    if ports == 1:
        return [app(*client_routes, *admin_routes)]
    shared = [route for route in admin_routes if route.path in OPEN_PATHS or ROLLOUT_ADAPTER.fullmatch(route.path)]
    return [app(*client_routes, *shared), app(*admin_routes)]
