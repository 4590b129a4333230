"""The parts of the dashboard, put together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.access.keys import KeyRing
from reheatd.api.context import ApiContext
from reheatd.dashboard.actions import Actions
from reheatd.dashboard.asking import Asker
from reheatd.dashboard.assets import Assets
from reheatd.dashboard.chat import ChatPage
from reheatd.dashboard.compare import ComparePage
from reheatd.dashboard.configuration import ConfigurationPage
from reheatd.dashboard.entropy import EntropyPage
from reheatd.dashboard.jobs import JobPages
from reheatd.dashboard.journal import JournalPages
from reheatd.dashboard.live import Live
from reheatd.dashboard.login import Login
from reheatd.dashboard.now import NowPage
from reheatd.dashboard.rendering import Renderer
from reheatd.dashboard.rollouts import RolloutPages
from reheatd.dashboard.versions import VersionPages
from reheatd.entropy.history import EntropyHistory
from reheatd.errors import ReheatdError

Endpoint = Callable[[Request], Awaitable[Response]]


class Dashboard:
    """All pages. Their data come from the same parts of the daemon as the admin API's answers.

    Args:
        gateway: The gateway's routes, by which pages ask the policy.
    """

    def __init__(self, context: ApiContext, keys: KeyRing, gateway: Sequence[Route]) -> None:
        settings = context.settings
        self._assets = Assets()
        self._live = Live()
        self._renderer = Renderer(self._assets, policy=settings.policy.model, keys_needed=settings.server.needs_keys)
        self._history = history = EntropyHistory(settings.database_path, context.series.key)
        asker = Asker(gateway, context.monitor.meter)
        self._parts = (
            NowPage(context, history, self._renderer, self._live),
            EntropyPage(context, history, self._renderer),
            JobPages(context, self._renderer, self._live),
            RolloutPages(context, self._renderer),
            JournalPages(context, self._renderer, self._live),
            ConfigurationPage(context, self._renderer),
            Actions(context, self._renderer),
            Login(keys, self._renderer),
            VersionPages(context, self._renderer),
            ComparePage(context, self._renderer, asker),
            ChatPage(context, self._renderer, asker),
        )

    def routes(self) -> list[Route]:
        """The routes of the pages and of what they are made of."""
        pages = [route for part in self._parts for route in part.routes()]
        pages.append(Route("/ui/{rest:path}", _missing, methods=["GET"]))
        return [*self._assets.routes(), *self._explained(pages)]

    async def run(self) -> None:
        """Reads templates and stored windows, for which nobody has to wait then, and waits to be cancelled."""
        await asyncio.to_thread(self._renderer.load)
        await self._history.probes()
        await asyncio.get_running_loop().create_future()

    def close(self) -> None:
        """Ends the streams of open pages, since a drain would wait for them."""
        self._live.close()

    def _explained(self, routes: Sequence[Route]) -> list[Route]:
        return [Route(route.path, self._page(route.endpoint), methods=list(route.methods or ())) for route in routes]

    def _page(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, which shows an error as a page unless what asks is a script."""

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except ReheatdError as error:
                if "text/html" not in request.headers.get("accept", ""):
                    raise
                title, message, status = "That cannot be done", error.message, error.status
            except HTTPException as error:
                title, message, status = "There is no such page", request.url.path, error.status_code
            return self._renderer.page(request, "message.html", status=status, title=title, message=message, back="/")

        return answer


async def _missing(request: Request) -> Response:
    raise HTTPException(404)
