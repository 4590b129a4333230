"""`reheatd jobs`: lists, shows, follows, cancels and approves the daemon's jobs, and shows their curves."""

import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cli import render
from cli.client import DaemonClient
from cli.options import DEFAULT_URL, JobArgument, JsonOption, UrlOption
from cli.rollouts import rollouts
from reheatd.client.waiting import asks
from reheatd.errors import BadInputError, ReheatdError
from reheatd.jobs.contracts import Job, JobStatus, TrainingRequest
from reheatd.jobs.curves import metric_names
from reheatd.jobs.dead_letters import DeadLetter
from reheatd.names import version_name

app = typer.Typer(help="List, show, follow, cancel or approve jobs, and read their curves.", no_args_is_help=True)

LIVE_METRICS = 4
"""Number of metrics beside the progress bar; `jobs show` shows all of them."""

MetricOption = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="NAME", help="Metric to show; may be given several times. Default: all."),
]


class JobEndedBadly(ReheatdError, RuntimeError):
    """The job that the command waited for failed, was rejected or cancelled, or waits for approval of its version.

    What to do: `reheatd jobs show JOB` says what the gates or the worker said. A job that waits for approval goes
    on with `reheatd jobs approve JOB`.
    """

    code = "job_failed"


@app.command("list")
@render.json_or_text
def list_jobs(url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """List all jobs, the newest last."""
    listed = DaemonClient(url).jobs()
    jobs = listed.jobs
    yield [job.model_dump(mode="json") for job in jobs]
    _print_dead_letters(listed.dead_letters or [])
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


def _print_dead_letters(letters: list[DeadLetter]) -> None:
    if not letters:
        return
    render.console.print(f"{len(letters)} messages that no worker could handle:")
    rows = render.table("message", "task", "worker", "when", "reason")
    for letter in letters:
        message, task = letter.message_id or render.NOTHING, letter.task or render.NOTHING
        rows.add_row(
            escape(message), escape(task), escape(letter.worker), render.age(letter.time), escape(letter.reason)
        )
    render.console.print(rows)
    render.console.print()


@app.command("show")
@render.json_or_text
def show_job(job_id: JobArgument, url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Show one job: what was asked for, how far it is and what the gates said."""
    yield from _job(DaemonClient(url).job(job_id))


@app.command("watch")
def watch_job(job_id: JobArgument, url: UrlOption = DEFAULT_URL, json_output: JsonOption = False) -> None:
    """Follow a job to its end, as `--wait` does for a new one; fails if the job fails."""
    client = DaemonClient(url)
    show_submitted(client, client.job(job_id), wait=True, json_output=json_output)


@app.command("curves")
@render.json_or_text
def show_curves(job_id: JobArgument, metrics: MetricOption = None, url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Show the metrics of a job step by step, also while it runs."""
    points = DaemonClient(url).curves(job_id).points
    known = metric_names(points)
    for name in metrics or ():
        if points and name not in known:
            raise BadInputError(f"--metric {name} is not reported by {job_id}; it reports {', '.join(known)}")
    chosen = metrics or known
    yield [{"step": p.step, "metrics": {name: p.metrics[name] for name in chosen if name in p.metrics}} for p in points]
    if not points:
        render.console.print(f"{escape(job_id)} has reported no metrics yet")
        return
    render.print_curves(points, chosen)


app.command("rollouts", hidden=True)(rollouts)  # its former name


@app.command("cancel")
@render.json_or_text
def cancel_job(job_id: JobArgument, url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Cancel a waiting or running job; the served version does not change, and a version that waits is rejected."""
    yield from _job(DaemonClient(url).cancel_job(job_id))


@app.command("approve")
@render.json_or_text
def approve_job(job_id: JobArgument, url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Approve a job that waits: it starts or, if a gate had no evidence on its version, the version is promoted."""
    yield from _job(DaemonClient(url).approve_job(job_id))


def submit(client: DaemonClient, request: TrainingRequest, *, wait: bool, json_output: bool) -> None:
    """Asks for a job and, with `wait`, follows it to its end.

    Raises:
        JobEndedBadly: The job that was waited for did not succeed.
    """
    show_submitted(client, client.submit_job(request), wait=wait, json_output=json_output)


def show_submitted(client: DaemonClient, job: Job, *, wait: bool, json_output: bool) -> None:
    """Prints a job that was just submitted or, with `wait`, follows it to its end and prints how it ended.

    Raises:
        JobEndedBadly: The job that was waited for did not succeed.
    """
    if wait:
        try:
            job = follow(client.updates(job.job_id), quiet=json_output)
        except KeyboardInterrupt:
            render.console.print(f"{job.job_id} continues; `reheatd jobs cancel {job.job_id}` ends it")
            raise
        if job.status is not JobStatus.SUCCEEDED:
            raise JobEndedBadly(
                f"{job.job_id} {job.status.value}: {job.error or _unpassed_gates(job) or 'no reason given'}"
            )
    _print_submitted(job, ended=wait, json_output=json_output)


@render.json_or_text
def _print_submitted(job: Job, *, ended: bool) -> render.JsonThenText:
    if ended:
        yield from _job(job)
        return
    yield job.model_dump(mode="json")
    render.console.print(f"{job.job_id} {render.job_status(job.status)}; `reheatd jobs watch {job.job_id}` follows it")


def follow(updates: Iterator[Job], *, quiet: bool = False) -> Job:
    """Shows the progress of a job that is followed, and returns the last of its updates."""
    last = next(updates)
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
        for job in chain([last], updates):
            last = job
            label = render.job_progress(job) if job.status is JobStatus.RUNNING and job.phase else job.status.value
            done, of = (job.done, job.of) if job.of else (job.step, job.steps)
            progress.update(
                bar,
                description=f"{job.job_id} {label}",
                completed=done,
                total=of or None,
                metrics=_metrics(islice(job.metrics.items(), LIVE_METRICS)),
            )
    return last


def _metrics(metrics: Iterable[tuple[str, float]]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics)


def _unpassed_gates(job: Job) -> str:
    gates = "; ".join(f"gate {gate.name}: {gate.detail}" for gate in job.gates if gate.outcome != "passed")
    return f"{gates}. {_how_to_decide(job)}" if asks(job) else gates


def _how_to_decide(job: Job) -> str:
    return f"`reheatd jobs approve {job.job_id}` promotes the version, `reheatd jobs cancel {job.job_id}` rejects it"


def _job(job: Job) -> render.JsonThenText:
    yield job.model_dump(mode="json")
    facts = render.facts()
    facts.add_row("job", f"{job.job_id}  {render.job_status(job.status)}  {render.job_progress(job)}")
    facts.add_row("kind", f"{job.kind}, {job.trigger}")
    asked = job.request.model_dump(exclude_none=True, exclude={"kind"})
    facts.add_row("asked", escape(", ".join(f"{name} {value}" for name, value in asked.items())))
    made = render.NOTHING if job.version is None else version_name(job.version)
    facts.add_row("version", f"{version_name(job.parent_version)} -> {made}")
    if job.started_at is not None:
        facts.add_row("took", render.duration((job.finished_at or time.time()) - job.started_at))
    if job.attempt > 1:
        facts.add_row("attempt", f"attempt {job.attempt}: a worker died, another resumed the job")
    if job.metrics:
        facts.add_row("metrics", _metrics(job.metrics.items()))
    for gate in job.gates:
        facts.add_row(f"gate {gate.name}", f"{render.outcome(gate.outcome)}  {escape(gate.detail)}")
    if asks(job):
        facts.add_row("waits", _how_to_decide(job))
    if job.error:
        facts.add_row("error", f"[red]{escape(job.error)}[/]")
    render.console.print(facts)
