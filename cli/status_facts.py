"""The daemon's status as a list of names and sentences, for one look and for the live screen."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli import render
from reheatd.api.schemas import EngineHealth, PartHealth, StatusView
from reheatd.jobs.contracts import Job, JobStatus
from reheatd.trackers.health import TrackerHealth

BAR_COLUMNS = 30
LABEL_COLUMNS = 14
"""Columns that labels and gaps take, at most."""


@dataclass(frozen=True)
class Watched:
    """What is known only of a daemon that is watched for a while."""

    entropies: Sequence[float] = ()
    """The promoted version's and its forerunners' entropy by window, oldest first, in nats per token."""
    left_s: float | None = None
    """Seconds until the running job has taken all its steps; None if it is not known."""


def status_facts(status: StatusView, watched: Watched | None = None) -> Table:
    """All that is worth knowing, the most important first."""
    facts = render.facts()
    facts.add_row("policy", f"[bold]{status.promoted.name}[/] of {escape(status.policy)}")
    if status.readiness != "ready":
        facts.add_row("serving", f"[yellow]not yet: {escape(status.readiness)}[/]")
    facts.add_row("state", f"{status.state.value} [dim](mode {status.mode}, up {render.duration(status.uptime_s)})[/]")
    if status.verdict is not None:
        facts.add_row("verdict", f"{render.verdict(status.verdict)}  {escape(status.reason)}")
    _add_entropy(facts, status, watched)
    for line in render.learning(status.learning):
        facts.add_row("learning", line)
    if status.reach is not None:
        facts.add_row("out of reach", render.reach(status.reach))
    if status.measuring is not None:
        measuring = status.measuring
        facts.add_row("measuring", f"{measuring.model}: {measuring.done} of {measuring.of} probes")
    if status.job is not None:
        facts.add_row("job", _job(status.job))
        if watched is not None and status.job.status is JobStatus.RUNNING:
            facts.add_row("", _progress(status.job, watched.left_s))
    for job in status.waiting:
        facts.add_row("waits", _job(job))
    if status.cooldown_remaining_s > 0:
        facts.add_row("cool-down", f"{render.duration(status.cooldown_remaining_s)} until a reheat may start by itself")
    for pause in status.paused:
        facts.add_row("paused", f"[red]{pause.what}[/] {render.age(pause.since)}: {escape(pause.why)}")
    _add_requests(facts, status)
    for engine in status.engines:
        facts.add_row("engine", _engine(engine))
    facts.add_row("workers", _workers(status))
    facts.add_row("broker", _health(status.broker))
    if status.trackers:
        facts.add_row("trackers", "  ".join(f"{escape(each.name)} {_health(each)}" for each in status.trackers))
    for intention in status.next:
        facts.add_row("next", escape(intention.what) + _when(intention.at))
    return facts


def _add_entropy(facts: Table, status: StatusView, watched: Watched | None) -> None:
    measured = "not measured yet"
    if status.entropy is not None and status.ratio is not None:
        measured = f"{render.entropy(status.entropy)} nats per token, {status.ratio:.0%} of the baseline"
    facts.add_row("entropy", measured)
    if watched is not None and len(watched.entropies) > 1:
        room = max(1, render.console.width - LABEL_COLUMNS)
        facts.add_row("", Text(render.sparkline(watched.entropies[-room:]), style="cyan"))
    facts.add_row("baseline", _baseline(status))
    if status.thresholds is not None:
        limits = status.thresholds
        hot = "" if limits.too_hot is None else f", too hot above {limits.too_hot:.3f}"
        facts.add_row(
            "thresholds",
            f"collapsed below {limits.collapsed:.3f} [dim]({escape(limits.because)})[/], warning below "
            f"{limits.warning:.3f}{hot}; a reheat leads to {limits.target:.3f}",
        )
    if status.problem is not None:
        facts.add_row("problem", f"[red]entropy cannot be measured:[/] {escape(status.problem)}")


def _add_requests(facts: Table, status: StatusView) -> None:
    failed = f"[red]{status.requests.failed} failed[/]" if status.requests.failed else "none failed"
    shown = f"{status.requests.total}, {failed}, {status.in_flight} in flight"
    recent = status.recent
    if recent is not None and recent.seconds_p50 is not None and recent.seconds_p95 is not None:
        shown += (
            f"; {recent.per_second:.2g} per second, {recent.seconds_p50:.2g} s each (95%: {recent.seconds_p95:.2g} s)"
        )
    facts.add_row("requests", shown)
    if status.tap_rejected:
        facts.add_row("entropy tap", f"[yellow]{status.tap_rejected} datagrams dropped[/], which no engine sealed")


def _job(job: Job) -> str:
    what = f"{job.job_id}  {render.job_status(job.status)}  {render.job_progress(job)}"
    return f"{what} [dim]({job.kind}, {job.trigger})[/]"


def _progress(job: Job, left_s: float | None) -> RenderableType:
    """The steps of a job as a bar, and the time that the others take."""
    width = max(4, min(BAR_COLUMNS, (render.console.width - LABEL_COLUMNS) // 2))
    bar = ProgressBar(total=max(1, job.steps), completed=job.step, width=width)
    if left_s is None:
        return bar
    # A reheat ends when it has reached its target, which nobody knows before.
    atmost = "at most " if job.kind == "reheat" else ""
    line = Table.grid(padding=(0, 1))
    line.add_row(bar, Text(f"{atmost}about {render.duration(left_s)} of training left", style="dim"))
    return line


def _baseline(status: StatusView) -> str:
    whose = escape(status.reference or "the policy itself")
    if status.baseline is None:
        return f"being measured, of {whose}"
    if status.baseline_of == "given":
        return f"{status.baseline.mean:.3f}, as given"
    advice = "" if status.reference else " [dim](if it is an RL checkpoint, set policy.reference)[/]"
    return f"{render.entropy(status.baseline)} of {whose}{advice}"


def _engine(engine: EngineHealth) -> str:
    return f"{escape(engine.name)} {_health(engine)}  [dim]{engine.in_flight} in flight[/]"


def _workers(status: StatusView) -> str:
    connected = status.workers.connected
    return f"{'?' if connected is None else connected} connected  {_health(status.workers)}"


def _health(part: PartHealth | TrackerHealth) -> str:
    mark = "[green]ok[/]" if part.ok else "[red]down[/]"
    return mark + (f" [dim]({escape(part.detail)})[/]" if part.detail else "")


def _when(at: float | None) -> str:
    if at is None:
        return ""
    left = at - time.time()
    return f" [dim]in {render.duration(left)}[/]" if left >= 1 else " [dim]now[/]"
