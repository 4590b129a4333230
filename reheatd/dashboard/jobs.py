"""The pages *Jobs*: the list of all jobs, and a page for each with its progress, gates and specification."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reheatd.api.context import ApiContext
from reheatd.dashboard import parameters
from reheatd.dashboard.charts import Chart
from reheatd.dashboard.job_curves import MOST_LINES, JobCurves, Metrics, chart_of, figures_of, metrics_of
from reheatd.dashboard.live import Live
from reheatd.dashboard.now import time_left_s
from reheatd.dashboard.rendering import Renderer
from reheatd.dashboard.values import spec_tables
from reheatd.errors import BadInputError
from reheatd.jobs.attempts import newest_attempt
from reheatd.jobs.contracts import Job, JobStatus
from reheatd.jobs.curves import read_curves
from reheatd.jobs.history import JobHistory, JobPage
from reheatd.jobs.store import JobRecord

KINDS = ("reheat", "rl", "import")
JOBS = 50
OTHERS = 20
"""Jobs whose curves can be laid over those of another."""


class JobPages:
    def __init__(self, context: ApiContext, renderer: Renderer, live: Live) -> None:
        self._controller = context.controller
        self._history = JobHistory(context.settings.database_path)
        self._renderer = renderer
        self._live = live

    def routes(self) -> list[Route]:
        job = "/ui/jobs/{job_id}"
        return [
            Route("/ui/jobs", self._list, methods=["GET"]),
            Route("/ui/live/jobs", self._stream_list, methods=["GET"]),
            Route(job, self._page, methods=["GET"]),
            Route(f"{job}/curves.json", self._chart, methods=["GET"]),
            Route("/ui/live/jobs/{job_id}", self._stream, methods=["GET"]),
        ]

    async def _list(self, request: Request) -> Response:
        problem, page, is_newest = None, JobPage([], None, None, False, False), False
        try:
            before, after = parameters.whole(request, "before"), parameters.whole(request, "after")
            page = await self._newest(request, before, after)
            if after is not None and not page.newer:
                before = after = None
                page = await self._newest(request)
            is_newest = before is None and after is None
        except BadInputError as error:
            problem = error.message
        query = request.url.query
        return self._renderer.page(
            request,
            "jobs.html",
            status=400 if problem else 200,
            problem=problem,
            kinds=KINDS,
            statuses=list(map(str, JobStatus)),
            given=request.query_params,
            jobs=self._rows(page),
            live=f"/ui/live/jobs{'?' + query if query else ''}" if is_newest else None,
            newer=parameters.link(request, before=None, after=page.newest) if page.newer and not is_newest else None,
            older=parameters.link(request, after=None, before=page.oldest) if page.older else None,
        )

    async def _stream_list(self, request: Request) -> Response:
        async def render() -> str:
            return self._rows(await self._newest(request))

        kind, status = _kind_and_status(request)
        return self._live.answer(f"jobs {kind} {status}", render)

    async def _newest(self, request: Request, before: int | None = None, after: int | None = None) -> JobPage:
        kind, status = _kind_and_status(request)
        return await self._history.page(JOBS, kind=kind, status=status, before=before, after=after)

    def _rows(self, page: JobPage) -> str:
        return self._renderer.fragment("jobs_fragment.html", jobs=[*map(self._newer, page.jobs)], left_s=time_left_s)

    async def _page(self, request: Request) -> Response:
        record = await self._history.record(request.path_params["job_id"])
        job = self._newer(record.job)
        compared, metrics, chart = await self._drawn(request, record)
        others = (await self._history.page(OTHERS + 1)).jobs
        return self._renderer.page(
            request,
            "job.html",
            job=job,
            now=self._fragment(job),
            tables=[] if record.spec is None else spec_tables(record.spec, job.request),
            metrics=metrics,
            others=[other for other in others if other.job_id != job.job_id and other.started_at is not None],
            compared=compared,
            chart=f"/ui/jobs/{job.job_id}/curves.json{parameters.query(request, 'metric', 'job')}",
            figures=figures_of(chart),
        )

    async def _stream(self, request: Request) -> Response:
        job_id = request.path_params["job_id"]
        await self._history.record(job_id)

        async def render() -> str:
            return self._fragment(self._newer((await self._history.record(job_id)).job))

        return self._live.answer(f"job {job_id}", render)

    async def _chart(self, request: Request) -> Response:
        record = await self._history.record(request.path_params["job_id"])
        _, _, chart = await self._drawn(request, record)
        return JSONResponse(chart.model_dump())

    async def _drawn(self, request: Request, record: JobRecord) -> tuple[list[str], Metrics, Chart]:
        """The jobs whose curves are laid over those of the page's job, the metrics, and the chart of all.

        Raises:
            NotFoundError: There is no such job.
            BadInputError: The job has no such metric.
            ReheatdError: The curves cannot be read.
        """
        others = [job_id for job_id in parameters.several(request, "job", MOST_LINES) if job_id != record.job.job_id]
        asked = parameters.several(request, "metric", MOST_LINES)
        start, end = parameters.number(request, "start"), parameters.number(request, "end")
        records = [record, *[await self._history.record(job_id) for job_id in others]]

        def draw() -> tuple[list[str], Metrics, Chart]:
            curves = [_read(each) for each in records]
            metrics = metrics_of(curves[0], asked)
            return others, metrics, chart_of(curves, metrics.chosen, start=start, end=end)

        return await asyncio.to_thread(draw)

    def _newer(self, job: Job) -> Job:
        """The job as it is at this moment, if it is being run."""
        current = self._controller.current_job
        return job if current is None or current.job_id != job.job_id else current

    def _fragment(self, job: Job) -> str:
        return self._renderer.fragment("job_fragment.html", job=job, left_s=time_left_s(job))


def _kind_and_status(request: Request) -> tuple[str | None, JobStatus | None]:
    status = parameters.choice(request, "status", [*JobStatus])
    return parameters.choice(request, "kind", KINDS), None if status is None else JobStatus(status)


def _read(record: JobRecord) -> JobCurves:
    spec = record.spec and newest_attempt(record.spec, record.job.attempt)
    target = getattr(spec, "target_entropy", None)
    return JobCurves(record.job.job_id, [] if spec is None else read_curves(spec.curves_file), target)
