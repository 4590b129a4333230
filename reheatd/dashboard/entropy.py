"""The page *Entropy*: the series of every source over any time, by position of the answer, and what happened meanwhile.

Curves are thinned and rendered beside the event loop, and kept as long as nothing new is measured.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from reheatd.api.context import ApiContext
from reheatd.dashboard.charts import Answer, Chart, Level, Line, levels, over_time
from reheatd.dashboard.entropy_view import PERIODS, SOURCES, WAYS, View
from reheatd.dashboard.happenings import KINDS, Happening, Happenings, between, marks, served, spans
from reheatd.dashboard.rendering import Renderer
from reheatd.dashboard.stored_windows import StoredWindows
from reheatd.entropy.history import Curve, EntropyHistory
from reheatd.entropy.live import LiveWindow
from reheatd.entropy.series import Window
from reheatd.measures import PositionMean
from reheatd.names import version_name
from reheatd.tap.moments import BUCKETS, first_position

POINTS = 600
"""Windows that a curve shows at most; a narrower view shows more of them."""
ROWS = 25
"""Rows of a table."""
VERSIONS = 3
"""Versions whose newest windows are shown by position."""
ANSWERS = 30
"""Curves that are kept for others who ask for the same."""
NEAR_S = 1800.0
"""How much is shown before and after a moment that a reader picks, in seconds."""
UNIT = "nats per token"


class EntropyPage:
    """The page, its curves and its download."""

    def __init__(self, context: ApiContext, history: EntropyHistory, renderer: Renderer) -> None:
        self._context = context
        self._history = history
        self._renderer = renderer
        database = context.settings.database_path
        self._happenings = Happenings(database)
        self._windows = StoredWindows(database, context.series.key)
        self._answers: dict[object, Answer] = {}

    def routes(self) -> list[Route]:
        return [
            Route("/ui/entropy", self._page, methods=["GET"]),
            Route("/ui/entropy.json", self._chart, methods=["GET"]),
            Route("/ui/entropy/positions.json", self._positions, methods=["GET"]),
            Route("/ui/entropy.csv", self._csv, methods=["GET"]),
        ]

    async def _page(self, request: Request) -> Response:
        view = View.of(request.query_params)
        start, end = view.limits
        happened = between(await self._happenings.all(), start, end)
        curves = await self._curves(view)
        probes, others, older = await self._newest({name: curve.between(start, end) for name, curve in curves.items()})
        return await asyncio.to_thread(
            self._renderer.page,
            request,
            "entropy.html",
            view=view,
            sources=SOURCES,
            ways=WAYS,
            periods=PERIODS,
            kinds=KINDS,
            happened=happened[: -ROWS - 1 : -1],
            happened_in_all=len(happened),
            near_s=NEAR_S,
            probes=probes,
            others=others,
            older=older,
            measured=sum(map(len, curves.values())),
            positions=await self._by_position(view),
        )

    async def _chart(self, request: Request) -> Response:
        view = View.of(request.query_params)
        limits, curves, happenings = view.limits, await self._curves(view), await self._happenings.all()
        monitor = self._context.monitor
        lines = levels(monitor.baseline, monitor.thresholds)
        probes = await self._history.probes()
        key = view, limits, len(probes), *map(len, curves.values()), len(happenings), *(line.value for line in lines)
        answer = self._answers.get(key)
        if answer is None:
            answer = await asyncio.to_thread(_answer, limits, curves, lines, happenings, probes)
            self._answers[key] = answer
            if len(self._answers) > ANSWERS:
                del self._answers[next(iter(self._answers))]
        return answer.to(request)

    async def _positions(self, request: Request) -> Response:
        view = View.of(request.query_params)
        return Answer(await self._by_position(view)).to(request)

    async def _csv(self, request: Request) -> Response:
        headers = {"content-disposition": 'attachment; filename="entropy.csv"', "cache-control": "no-store"}
        return StreamingResponse(self._windows.csv(), media_type="text/csv; charset=utf-8", headers=headers)

    async def _curves(self, view: View) -> dict[str, Curve]:
        """All windows of each curve of a view, by the curve's name."""
        found: dict[str, Curve] = {}
        for source in view.sources:
            if source == "probe":
                found["probes"] = await self._history.probes()
            elif source == "tap":
                found["probes, tap"] = await self._history.live("probe")
            else:
                curve = await self._history.live(source)
                by_way = await asyncio.to_thread(lambda curve=curve: {way: curve.measured_by(way) for way in view.ways})
                found |= {_name(source, way): part for way, part in by_way.items() if len(part)}
        return found

    async def _newest(self, curves: Mapping[str, Curve]) -> tuple[list[Window], list[LiveWindow], float | None]:
        """The newest windows of the probes and of the other curves, and when the oldest of them was measured.

        The time is None if there are no older ones.
        """
        probes = [id for name, curve in curves.items() if name == "probes" for id in curve.id[-ROWS:].tolist()]
        others = [id for name, curve in curves.items() if name != "probes" for id in curve.id[-ROWS:].tolist()]
        found = await self._windows.probes(probes), await self._windows.live(sorted(others)[-ROWS:])
        shown = [window.time for windows in found for window in windows]
        more = sum(map(len, curves.values())) > len(shown)
        return *found, min(shown) if shown and more else None

    async def _by_position(self, view: View) -> Chart:
        """The newest windows by position: of the versions that were measured last, and of the view's other sources."""
        found: dict[str, Sequence[PositionMean]] = {}
        if "probe" in view.sources:
            for version in await asyncio.to_thread(_newest_versions, await self._history.probes()):
                for window in self._context.series.last(1, version):
                    found[f"{version_name(version)}, probes"] = window.by_position
        for window in reversed(self._context.live.newest()):
            source = "tap" if window.source == "probe" else window.source
            if source in view.sources and (source == "tap" or window.measured_by in view.ways):
                found[f"{window.version}, {_name(window.source, window.measured_by)}"] = window.by_position
        places = sorted({entry.position for entries in found.values() for entry in entries})
        means = [{entry.position: round(entry.mean, 5) for entry in entries} for entries in found.values()]
        return Chart(
            x=[*map(float, range(len(places)))],
            is_time=False,
            ticks=[_tokens(place) for place in places],
            unit=UNIT,
            lines=[
                Line(label=name, values=[by_place.get(place) for place in places])
                for name, by_place in zip(found, means, strict=True)
            ],
        )


def _answer(
    limits: tuple[float | None, float | None],
    curves: Mapping[str, Curve],
    lines: list[Level],
    happenings: Sequence[Happening],
    probes: Curve,
) -> Answer:
    shown = {name: curve.between(*limits).thinned(POINTS) for name, curve in curves.items()}
    x, drawn = over_time(shown)
    chart = Chart(x=x, is_time=True, unit=UNIT, lines=drawn, levels=lines)
    if x:
        newest = max((one.time for one in between(happenings, *limits)), default=0.0)
        if newest > x[-1]:  # what happened since the last window is shown behind it
            x.append(newest)
            for line in drawn:
                line.extend()
        chart.spans = spans(served(happenings, probes), x[0], x[-1])
        chart.marks = marks(happenings, x[0], x[-1])
    return Answer(chart)


def _newest_versions(probes: Curve) -> list[int]:
    """The versions that were measured last, the newest first."""
    changes = np.flatnonzero(probes.version[1:] != probes.version[:-1]) + 1
    begins = [0, *changes.tolist()] if len(probes) else []
    newest = dict.fromkeys(int(probes.version[begin]) for begin in reversed(begins))
    return [*itertools.islice(newest, VERSIONS)]


def _name(source: str, way: str) -> str:
    return f"{ {'live': 'clients', 'rollout': 'rollouts', 'probe': 'probes'}[source] }, {way.replace('_', ' ')}"


def _tokens(position: int) -> str:
    """The positions from this one up to the next bucket's; see `reheatd.tap.moments`."""
    if position < 2:
        return str(position)
    return f"{position}+" if position >= first_position(BUCKETS - 1) else f"{position}–{2 * position - 1}"
