"""`reheatd status`: shows what the daemon serves and does."""

import time
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live
from rich.markup import escape

from cli import render
from cli.client import DaemonClient
from cli.options import DEFAULT_URL, JsonOption, UrlOption
from reheatd.api.schemas import PartHealth, StatusView
from reheatd.errors import DaemonUnreachableError
from reheatd.trackers.children import TrackerHealth

WATCH_S = 1.0


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing the status until Ctrl-C.")] = False,
    url: UrlOption = DEFAULT_URL,
    json_output: JsonOption = False,
) -> None:
    """Show the state, the version, its entropy against the baseline, the running job and the health of the parts.

    With `--watch --json`, the command prints one object per second, each on its own line.
    """
    client = DaemonClient(url)

    def report() -> StatusView:
        return StatusView.model_validate(client.get("/reheatd/v1/status"))

    if not watch:
        _print_once(report(), json_output=json_output)
    elif json_output:
        while True:
            print(report().model_dump_json(), flush=True)
            time.sleep(WATCH_S)
    else:
        with Live(describe(report()), console=render.console, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_S)
                try:
                    live.update(describe(report()), refresh=True)
                except DaemonUnreachableError as error:
                    live.update(f"[red]{escape(error.message)}[/]", refresh=True)


@render.json_or_text
def _print_once(status: StatusView) -> render.JsonThenText:
    yield status.model_dump(mode="json")
    render.console.print(describe(status))


def describe(status: StatusView) -> RenderableType:
    facts = render.facts()
    facts.add_row("policy", f"[bold]{status.promoted.name}[/] of {escape(status.policy)}")
    if status.readiness != "ready":
        facts.add_row("serving", f"[yellow]not yet: {escape(status.readiness)}[/]")
    facts.add_row("state", f"{status.state.value} [dim](mode {status.mode}, up {render.duration(status.uptime_s)})[/]")
    measured = "not measured yet"
    if status.entropy is not None and status.ratio is not None:
        measured = f"{render.entropy(status.entropy)} nats per token, {status.ratio:.0%} of the baseline"
    facts.add_row("entropy", f"{measured}  {render.verdict(status.verdict)}")
    facts.add_row("baseline", _baseline(status))
    if status.problem is not None:
        facts.add_row("problem", f"[red]entropy cannot be measured:[/] {escape(status.problem)}")
    for line in render.learning(status.learning):
        facts.add_row("learning", line)
    if status.reach is not None:
        facts.add_row("out of reach", render.reach(status.reach))
    if status.measuring is not None:
        measuring = status.measuring
        facts.add_row("measuring", f"{measuring.model}: {measuring.done} of {measuring.of} probes")
    for job in [status.job, *status.waiting]:
        if job is not None:
            what = f"{job.job_id}  {render.job_status(job.status)}  {render.job_progress(job)}"
            facts.add_row("job", f"{what} [dim]({job.kind}, {job.trigger})[/]")
    if status.cooldown_remaining_s > 0:
        facts.add_row("cool-down", f"{render.duration(status.cooldown_remaining_s)} until a reheat may start by itself")
    for pause in status.paused:
        facts.add_row("paused", f"[red]{pause.what}[/] {render.age(pause.since)}: {escape(pause.why)}")
    failed = f", [red]{status.requests.failed} failed[/]" if status.requests.failed else ", none failed"
    facts.add_row("requests", f"{status.requests.total}{failed}, {status.in_flight} in flight")
    if status.tap_rejected:
        facts.add_row("entropy tap", f"[yellow]{status.tap_rejected} datagrams dropped[/], which no engine sealed")
    engines = [(engine.name, engine) for engine in status.engines]
    parts = [*engines, ("broker", status.broker), ("workers", status.workers)]
    facts.add_row("parts", "  ".join(_health(name, part) for name, part in parts))
    if status.trackers:
        facts.add_row("trackers", "  ".join(_health(tracker.name, tracker) for tracker in status.trackers))
    return facts


def _baseline(status: StatusView) -> str:
    whose = escape(status.reference or "the policy itself")
    if status.baseline is None:
        return f"being measured, of {whose}"
    if status.baseline_of == "given":
        return f"{status.baseline.mean:.3f}, as given"
    advice = "" if status.reference else " [dim](if it is an RL checkpoint, set policy.reference)[/]"
    return f"{render.entropy(status.baseline)} of {whose}{advice}"


def _health(name: str, part: PartHealth | TrackerHealth) -> str:
    mark = "[green]ok[/]" if part.ok else "[red]down[/]"
    return f"{name} {mark}" + (f" [dim]({escape(part.detail)})[/]" if part.detail else "")
