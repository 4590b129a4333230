"""`reheatd jobs`: lists, shows, cancels and approves the daemon's jobs."""

import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cli import render
from cli.client import DaemonClient
from cli.options import DEFAULT_URL, UrlOption
from reheatd.errors import ReheatdError
from reheatd.jobs.contracts import Job, JobStatus
from reheatd.names import version_name

app = typer.Typer(help="List, show, cancel or approve jobs.", no_args_is_help=True)

POLL_S = 0.5
LIVE_METRICS = 4
"""Number of metrics beside the progress bar; `jobs show` shows all of them."""
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as `reheatd jobs list` shows it.")]


class JobEndedBadly(ReheatdError, RuntimeError):
    """The job that the command waited for failed, was rejected by a gate or was cancelled."""

    code = "job_failed"


@app.command("list")
@render.json_or_text
def list_jobs(url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """List all jobs, the newest last."""
    jobs = [Job.model_validate(job) for job in DaemonClient(url).get("/reheatd/v1/jobs")["jobs"]]
    yield [job.model_dump(mode="json") for job in jobs]
    if not jobs:
        render.console.print("no jobs yet; `reheatd reheat` starts one")
        return
    rows = render.table("job", "kind", "trigger", "status", "from", "to", "progress", "started", "#took")
    for job in jobs:
        took = (job.finished_at or time.time()) - job.started_at if job.started_at else None
        rows.add_row(
            job.job_id,
            job.kind,
            job.trigger,
            render.job_status(job.status),
            version_name(job.parent_version),
            render.NOTHING if job.version is None else version_name(job.version),
            render.job_progress(job),
            render.age(job.started_at),
            render.NOTHING if took is None else render.duration(took),
        )
    render.console.print(rows)


@app.command("show")
@render.json_or_text
def show_job(job_id: JobArgument, url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Show one job: what was asked for, how far it is and what the gates said."""
    yield from _job(DaemonClient(url).get(f"/reheatd/v1/jobs/{job_id}"))


@app.command("cancel")
@render.json_or_text
def cancel_job(job_id: JobArgument, url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Cancel a waiting or running job; the served version does not change."""
    yield from _job(DaemonClient(url).post(f"/reheatd/v1/jobs/{job_id}/cancel"))


@app.command("approve")
@render.json_or_text
def approve_job(job_id: JobArgument, url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Approve a job that waits for approval (`control.mode = "approve"`), so that it starts."""
    yield from _job(DaemonClient(url).post(f"/reheatd/v1/jobs/{job_id}/approve"))


def submit(client: DaemonClient, request: dict[str, Any], *, wait: bool, json_output: bool) -> None:
    """Asks for a job and, with `wait`, follows it to its end.

    Raises:
        JobEndedBadly: The job that was waited for did not succeed.
    """
    body = {name: value for name, value in request.items() if value is not None}
    job = Job.model_validate(client.post("/reheatd/v1/jobs", body))
    show_submitted(client, job, wait=wait, json_output=json_output)


def show_submitted(client: DaemonClient, job: Job, *, wait: bool, json_output: bool) -> None:
    """Prints a job that was just submitted or, with `wait`, follows it to its end and prints how it ended.

    Raises:
        JobEndedBadly: The job that was waited for did not succeed.
    """
    if wait:
        try:
            job = follow(lambda: Job.model_validate(client.get(f"/reheatd/v1/jobs/{job.job_id}")), quiet=json_output)
        except KeyboardInterrupt:
            render.console.print(f"{job.job_id} continues; `reheatd jobs cancel {job.job_id}` ends it")
            raise
        if job.status is not JobStatus.SUCCEEDED:
            raise JobEndedBadly(
                f"{job.job_id} {job.status.value}: {job.error or _failed_gates(job) or 'no reason given'}"
            )
    _print_submitted(job, ended=wait, json_output=json_output)


@render.json_or_text
def _print_submitted(job: Job, *, ended: bool) -> render.JsonThenText:
    if ended:
        yield from _job(job.model_dump(mode="json"))
        return
    yield job.model_dump(mode="json")
    render.console.print(f"{job.job_id} {render.job_status(job.status)}; `reheatd jobs show {job.job_id}` follows it")


def follow(poll: Callable[[], Job], *, quiet: bool = False) -> Job:
    """Shows a job's progress until the job has ended."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[metrics]}"),
    )
    console = Console(quiet=True) if quiet else render.console
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=None, metrics="")
        while not (job := poll()).status.is_final:
            label = render.job_progress(job) if job.status is JobStatus.RUNNING and job.phase else job.status.value
            done, of = (job.done, job.of) if job.of else (job.step, job.steps)
            progress.update(
                bar,
                description=f"{job.job_id} {label}",
                completed=done,
                total=of or None,
                metrics=_metrics(islice(job.metrics.items(), LIVE_METRICS)),
            )
            time.sleep(POLL_S)
    return job


def _metrics(metrics: Iterable[tuple[str, float]]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics)


def _failed_gates(job: Job) -> str:
    return "; ".join(f"gate {gate.get('name')}: {gate.get('detail')}" for gate in job.gates if not gate.get("passed"))


def _job(body: dict[str, Any]) -> render.JsonThenText:
    yield body
    job = Job.model_validate(body)
    facts = render.facts()
    facts.add_row("job", f"{job.job_id}  {render.job_status(job.status)}  {render.job_progress(job)}")
    facts.add_row("kind", f"{job.kind}, {job.trigger}")
    asked = job.request.model_dump(exclude_none=True, exclude={"kind"})
    facts.add_row("asked", ", ".join(f"{name} {value}" for name, value in asked.items()))
    made = render.NOTHING if job.version is None else version_name(job.version)
    facts.add_row("version", f"{version_name(job.parent_version)} -> {made}")
    if job.started_at is not None:
        facts.add_row("took", render.duration((job.finished_at or time.time()) - job.started_at))
    if job.attempt > 1:
        facts.add_row("attempt", f"attempt {job.attempt}: a worker died, another resumed the job")
    if job.metrics:
        facts.add_row("metrics", _metrics(job.metrics.items()))
    for gate in job.gates:
        mark = "[green]passed[/]" if gate.get("passed") else "[red]failed[/]"
        facts.add_row(f"gate {gate.get('name')}", f"{mark}  {gate.get('detail')}")
    if job.error:
        facts.add_row("error", f"[red]{job.error}[/]")
    render.console.print(facts)
