"""The page *Now*: whether the policy is well, what the daemon did about it, and what it will do next."""

import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.api.context import ApiContext
from reheatd.api.status import status_view
from reheatd.dashboard.charts import Answer, Chart, levels, over_time
from reheatd.dashboard.live import Live
from reheatd.dashboard.rendering import Renderer
from reheatd.entropy.history import EntropyHistory
from reheatd.jobs.contracts import Job

SHOWN_S = 24 * 3600.0
POINTS = 400


class NowPage:
    def __init__(self, context: ApiContext, history: EntropyHistory, renderer: Renderer, live: Live) -> None:
        self._context = context
        self._history = history
        self._renderer = renderer
        self._live = live

    def routes(self) -> list[Route]:
        return [
            Route("/", self._page, methods=["GET"]),
            Route("/ui/live/now", self._stream, methods=["GET"]),
            Route("/ui/now.json", self._chart, methods=["GET"]),
        ]

    async def _page(self, request: Request) -> Response:
        return self._renderer.page(request, "now.html", now=await self._fragment())

    async def _stream(self, request: Request) -> Response:
        return self._live.answer("now", self._fragment)

    async def _chart(self, request: Request) -> Response:
        monitor = self._context.monitor
        curve = (await self._history.probes()).between(time.time() - SHOWN_S, None).thinned(POINTS)
        x, lines = over_time({"entropy": curve})
        chart = Chart(
            x=x, is_time=True, unit="nats per token", lines=lines, levels=levels(monitor.baseline, monitor.thresholds)
        )
        return Answer(chart).to(request)

    async def _fragment(self) -> str:
        context = self._context
        status = await status_view(context)
        return self._renderer.fragment(
            "now_fragment.html",
            status=status,
            since=context.ledger.newest_transition,
            last=context.ledger.entries(5)[::-1],
            now=time.time(),
            left_s=status.job and time_left_s(status.job),
            previous=context.versions.previous(),
        )


def time_left_s(job: Job) -> float | None:
    """Seconds that the rest of a job's steps take at its pace so far; None if nothing can be said yet."""
    if job.started_at is None or not job.step or not job.steps:
        return None
    return (time.time() - job.started_at) / job.step * (job.steps - job.step)
