"""The page *Now*: whether the policy is well, what the daemon did about it, and what it will do next."""

import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.api.context import ApiContext
from reheatd.api.schemas import StatusView
from reheatd.api.status import status_view
from reheatd.dashboard.charts import Answer, Chart, levels, over_time
from reheatd.dashboard.live import Live
from reheatd.dashboard.rendering import Renderer
from reheatd.entropy.history import EntropyHistory
from reheatd.entropy.regime import Thresholds
from reheatd.jobs.contracts import Job
from reheatd.text import duration

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
        thresholds = context.monitor.thresholds
        return self._renderer.fragment(
            "now_fragment.html",
            status=status,
            thresholds=thresholds,
            verdict=verdict_sentence(status, thresholds),
            since=context.ledger.newest_transition,
            last=context.ledger.entries(5)[::-1],
            outlook=outlook(status, context.monitor.next_at),
            left_s=status.job and time_left_s(status.job),
            previous=context.versions.previous(),
        )


def verdict_sentence(status: StatusView, thresholds: Thresholds | None) -> str:
    """The verdict on the promoted version and its reason, in one sentence."""
    name, verdict = status.promoted.name, status.verdict
    if verdict is None or status.entropy is None or thresholds is None:
        if status.problem is not None:
            return f"Nothing is known of {name}, because its entropy cannot be measured: {status.problem}"
        return f"Nothing is known of {name} yet; its entropy is measured first."
    found = f"{status.entropy.mean:.3g} nats per token"
    if verdict == "collapsed":
        return f"{name} has collapsed: {found} are below {thresholds.collapsed:.3g}, which is {thresholds.because}."
    if verdict == "too_hot" and thresholds.too_hot is not None:
        return f"{name} has run away: {found} are above {thresholds.too_hot:.3g}."
    if verdict == "stalled":
        return f"{name} has stalled: RL learns nothing from its rollouts, though its entropy, {found}, is no reason."
    if verdict == "warning":
        return f"{name} is close to a limit: {found}; it counts as collapsed below {thresholds.collapsed:.3g}."
    return f"{name} is well: {found}; it would count as collapsed below {thresholds.collapsed:.3g}."


def outlook(status: StatusView, next_window_at: float | None) -> list[str]:
    """What the daemon will do next and when, the soonest first."""
    found: list[str] = []
    job = status.job
    if job is not None:
        after = "its version is measured, and promoted if it passes the gates" if job.kind != "import" else "it is kept"
        found.append(f"Runs {job.job_id}; when it is done, {after}.")
    for waiting in status.waiting:
        needs = "waits for approval" if waiting.status == "awaiting_approval" else "waits for its turn"
        found.append(f"{waiting.job_id} ({waiting.kind}) {needs}.")
    if status.measuring is not None:
        found.append(f"Measures the entropy of {status.measuring.model} now.")
    elif next_window_at is not None:
        found.append(f"Measures the entropy of {status.promoted.name} in {duration(next_window_at - time.time())}.")
    for pause in status.paused:
        found.append(f"Starts no more {pause.what} by itself until somebody resumes: {pause.why}")
    if status.mode == "observe":
        found.append("Starts no job by itself, because control.mode is observe.")
    elif status.cooldown_remaining_s > 0:
        left = duration(status.cooldown_remaining_s)
        found.append(f"Starts no reheat by itself for another {left}, the rest of control.cooldown_s.")
    elif job is None and status.verdict in ("ok", "warning"):
        how = "asks for approval of a reheat" if status.mode == "approve" else "reheats it"
        found.append(f"If {status.promoted.name} collapses, the daemon {how}.")
    return found


def time_left_s(job: Job) -> float | None:
    """Seconds that the rest of a job's steps take at its pace so far; None if nothing can be said yet."""
    if job.started_at is None or not job.step or not job.steps:
        return None
    return (time.time() - job.started_at) / job.step * (job.steps - job.step)
