"""The page *Journal*: every decision of the daemon with its figures, and who asked for it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.api.context import ApiContext
from reheatd.control.journal_pages import Journal, JournalFilter, JournalPage
from reheatd.dashboard import parameters
from reheatd.dashboard.live import Live
from reheatd.dashboard.rendering import Renderer
from reheatd.errors import BadInputError
from reheatd.names import parse_version

EVENTS = ("transition", "promoted", "requested", "resumed")
ENTRIES = 100
NEWER = 10
"""Newer entries that are shown above one that is linked to."""


@dataclass(frozen=True)
class _Shown:
    page: JournalPage
    is_newest: bool = False
    """Whether its first entry is the newest one that fits, so that newer ones can be added as they come."""
    problem: str | None = None


class JournalPages:
    def __init__(self, context: ApiContext, renderer: Renderer, live: Live) -> None:
        self._ledger = context.ledger
        self._journal = Journal(context.settings.database_path)
        self._renderer = renderer
        self._live = live

    def routes(self) -> list[Route]:
        return [
            Route("/ui/journal", self._page, methods=["GET"]),
            Route("/ui/live/journal", self._stream, methods=["GET"]),
        ]

    async def _page(self, request: Request) -> Response:
        try:
            shown = await self._shown(request)
        except BadInputError as error:
            shown = _Shown(JournalPage(), problem=error.message)
        page, query = shown.page, request.url.query
        first, last = (page.entries[0].id, page.entries[-1].id) if page.entries else (0, 0)
        link = partial(parameters.link, request, entry=None)
        return self._renderer.page(
            request,
            "journal.html",
            status=400 if shown.problem else 200,
            problem=shown.problem,
            events=EVENTS,
            given=request.query_params,
            entries=self._entries(page),
            live=f"/ui/live/journal{'?' + query if query else ''}" if shown.is_newest else None,
            newer=link(before=None, after=first) if page.newer else None,
            older=link(before=last, after=None) if page.older else None,
        )

    async def _shown(self, request: Request) -> "_Shown":
        wanted = filter_of(request)
        before, after = parameters.whole(request, "before"), parameters.whole(request, "after")
        entry = parameters.whole(request, "entry", least=1)
        if entry is not None:
            before = entry + NEWER + 1
        if after is not None or before is not None:
            page = await self._journal.page(wanted, ENTRIES, before=before, after=after)
            if after is None or page.newer:
                return _Shown(page)
        return _Shown(await self._journal.page(wanted, ENTRIES), is_newest=True)

    async def _stream(self, request: Request) -> Response:
        wanted = filter_of(request)
        return self._live.answer(f"journal {wanted}", self._newest(wanted))

    def _newest(self, wanted: JournalFilter) -> Callable[[], Awaitable[str]]:
        """What renders the newest entries that fit, again only when the journal has grown."""
        seen, html = -1, ""

        async def render() -> str:
            nonlocal seen, html
            newest = self._ledger.newest_id
            if newest != seen:
                html = self._entries(await self._journal.page(wanted, ENTRIES))
                seen = newest
            return html

        return render

    def _entries(self, page: JournalPage) -> str:
        return self._renderer.fragment("journal_fragment.html", entries=page.entries)


def filter_of(request: Request) -> JournalFilter:
    """What entries the query asks for.

    Raises:
        BadInputError: A value cannot be used; `param` names it.
    """
    version = parameters.text(request, "version")
    return JournalFilter(
        event=parameters.choice(request, "event", EVENTS),
        job_id=parameters.text(request, "job"),
        version=None if version is None else parse_version(version),
        actor=parameters.text(request, "actor"),
        text=parameters.text(request, "text"),
        start=parameters.moment(request, "start"),
        end=parameters.moment(request, "end"),
    )
