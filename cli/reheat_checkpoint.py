"""`reheatd reheat-checkpoint`: diagnoses, reheats and writes one policy, with a daemon that ends with the command."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from cli import render
from cli.adapter_files import merge_adapter
from cli.checkpoint_outcome import Outcome, ReheatFailed, is_decided, not_collapsed, outcome_of
from cli.child_daemon import ended_by_signals
from cli.options import ConfigOption, JsonOption
from cli.screen import Screen
from cli.watched_daemon import WatchedDaemon, watched_daemon
from reheatd.client.adapter_files import adapter_stream
from reheatd.client.waiting import is_settled
from reheatd.config import Settings, load_settings
from reheatd.engine.launch import detect_device
from reheatd.engine.policy_model import resolve_policy
from reheatd.entropy.windows import Window
from reheatd.errors import BadInputError, ConflictError, NotFoundError, ReheatdError
from reheatd.extras import require_engine_extra, require_worker_extra
from reheatd.files import publish_folder
from reheatd.jobs.contracts import Job, JobStatus, ReheatRequest
from reheatd.process.ports import reserve_port
from reheatd.reference.files import resolve_reference
from reheatd.tasks.sources import is_local
from reheatd.trackers.installed import require_trackers

REPORT = "report"


def reheat_checkpoint(
    model: Annotated[str, typer.Argument(help="The collapsed policy or, with --adapter, its base.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    task: Annotated[Path | None, typer.Option(help="Problems, as `task.path`; default: that one.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="The collapsed policy as a PEFT adapter on MODEL.")] = None,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Accept an adapter that names another base model; its shapes must fit.")
    ] = False,
    reference: Annotated[str | None, typer.Option(help="The base that MODEL was trained from.")] = None,
    baseline_nats: Annotated[
        float | None, typer.Option(help="Entropy of that base in nats per token, in place of --reference.")
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Write a full checkpoint instead of an adapter.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Reheat a policy that has not collapsed.")] = False,
    accept_no_evidence: Annotated[
        bool, typer.Option("--accept-no-evidence", help="Write it even if a gate cannot tell whether it is worse.")
    ] = False,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Reheat a collapsed policy and write the result, in one command that leaves no daemon behind.

    Exits with 0 if OUT was written. Nothing is written with 3, if the policy has not collapsed; with 4, if the gates
    rejected the result or one had no evidence; with 2, if the input is bad; and with 1, if something failed.
    """
    if out.exists():
        raise ConflictError(f"--out {out} exists already; name a new folder", param="--out")
    given = _without_none(
        {
            "policy": {"model": model, "reference": reference},
            "entropy": {"baseline_nats": baseline_nats},
            "task": {"path": task},
            "gate": {"no_evidence": "pass" if accept_no_evidence else None},
        }
    )
    base = _checked(load_settings(config, given), adapter, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with ended_by_signals(), Screen(console, time.time()) as screen, _private_folder(out.resolve(), screen) as folder:
        port = reserve_port()
        environment = _environment(given) | _environment(_private(port)) | {"REHEATD_DATA_DIR": str(folder / "data")}
        screen.say("starting a daemon for this command")
        with watched_daemon(screen, config, f"http://127.0.0.1:{port}", folder / "serve.log", environment) as daemon:
            outcome = _run(daemon, adapter, any_base=any_base, force=force)
            if outcome.exit_code == 0:
                outcome = outcome.model_copy(update={"folder": out.resolve(), "merged": merged})
                _write(daemon, outcome, out.resolve(), base)
    _print(outcome, json_output=json_output)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _checked(settings: Settings, adapter: Path | None, *, force: bool) -> Path:
    """Checks what can be checked before anything is started, and returns the folder of the model.

    Raises:
        BadInputError, NotFoundError, MissingExtraError: The command cannot do what was asked for.
    """
    for name, url in (("engine.url", settings.engine.url), ("broker.url", settings.broker.url)):
        if url is not None:
            raise BadInputError(
                f"{name} = {url} is in use by others, but reheat-checkpoint starts its own; leave it out", param=name
            )
    for name, value in (
        ("server.admin_port", settings.server.admin_port),
        ("server.tls_certificate", settings.server.tls_certificate),
    ):
        if value is not None:
            raise BadInputError(
                f"{name} = {value} is for a daemon that others ask, but reheat-checkpoint asks its own; leave it out",
                param=name,
            )
    require_trackers(settings.trackers.names)
    if settings.trackers.names and settings.trackers.folder is None:
        raise BadInputError(
            "trackers.folder is not set, and reheat-checkpoint removes its daemon's data at the end; name a folder for "
            "the files of trackers, or leave trackers.names out",
            param="trackers.folder",
        )
    task = settings.task.path
    if task is None:
        raise BadInputError("--task is missing; name the problems that the policy was trained on", param="--task")
    if is_local(task) and not task.exists():
        raise NotFoundError(f"--task {task} does not exist; name a file of problems in JSON lines", param="--task")
    require_engine_extra(detect_device())
    require_worker_extra()
    model = resolve_policy(settings.policy.model)
    if adapter is not None:
        if settings.policy.reference is not None:
            raise BadInputError(
                f"--reference {settings.policy.reference}: with --adapter, MODEL is the base; leave it out",
                param="--reference",
            )
        adapter_stream(adapter)  # which finds that there is none
    elif settings.policy.reference is not None:
        resolve_reference(settings.policy.reference, model)
    elif settings.entropy.baseline_nats is None and not force:
        raise BadInputError(
            f"{settings.policy.model} would be its own baseline, and so could not be found collapsed; name the base "
            "that it was trained from with --reference, or that base's entropy with --baseline-nats",
            param="--reference",
        )
    return model


def _private(port: int) -> dict[str, dict[str, Any]]:
    """Settings that keep the daemon of this command apart from others, and from doing more than it is asked for."""
    return {
        "server": {
            "host": "127.0.0.1",
            "port": port,
            "public_url": f"http://127.0.0.1:{port}",
            "require_keys": False,
        },
        "engine": {"port": 0},
        "entropy": {"tap_address": "127.0.0.1:0"},
        "workers": {"count": 1},
        "control": {"mode": "observe", "rl": "off"},
    }


def _environment(given: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Settings as the variables that win over the configuration file."""
    return {
        f"REHEATD_{section}__{key}".upper(): str(value)
        for section, values in given.items()
        for key, value in values.items()
    }


def _without_none(given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {key: value for key, value in keys.items() if value is not None} for name, keys in given.items()}


@contextmanager
def _private_folder(out: Path, screen: Screen) -> Iterator[Path]:
    """A folder beside `out` for the daemon's data. It is removed, unless something failed and its logs may tell why."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    failed = False
    try:
        yield folder
    except Exception as error:  # bad input and a signal are no failures
        failed = not isinstance(error, ReheatdError) or error.exit_code == 1
        raise
    finally:
        if failed:
            screen.say(f"the daemon's data and logs are in {folder}")
        else:
            shutil.rmtree(folder)


def _run(daemon: WatchedDaemon, adapter: Path | None, *, any_base: bool, force: bool) -> Outcome:
    version = 0 if adapter is None else _import(daemon, adapter, any_base=any_base)
    window = daemon.wait("the verdict", lambda: _last_window(daemon, version))
    collapsed = window.verdict == "collapsed"
    if not collapsed and not force:
        return not_collapsed(window)
    job = _ended(daemon, daemon.client.submit_job(ReheatRequest(force=not collapsed)))
    return outcome_of(window, job, None if job.version is None else daemon.client.adapter(job.version).lineage)


def _import(daemon: WatchedDaemon, adapter: Path, *, any_base: bool) -> int:
    """Brings the adapter in and lets the daemon serve it; returns its version."""
    job = _ended(daemon, daemon.client.import_adapter(adapter, any_base=any_base))
    if job.status is not JobStatus.SUCCEEDED or job.version is None:
        raise ReheatFailed(f"{job.job_id} {job.status.value}: {job.error}")
    daemon.client.promote(job.version)
    return job.version


def _last_window(daemon: WatchedDaemon, version: int) -> Window | None:
    """The window that decides on the version, for `WatchedDaemon.wait`."""
    daemon.tell()
    windows = daemon.windows(version)
    if windows and is_decided(windows[-1]):
        return windows[-1]
    if daemon.show().measuring is None:
        # The daemon measures by itself and would try again later if it failed. This way, the command hears why.
        daemon.client.measure()
    return None


def _ended(daemon: WatchedDaemon, submitted: Job) -> Job:
    """Waits until a job has ended, or asks for approval of its version."""

    def poll() -> Job | None:
        daemon.tell()
        job = daemon.client.job(submitted.job_id)
        return job if is_settled(job) else None

    return daemon.wait(f"{submitted.job_id} to end", poll)


def _write(daemon: WatchedDaemon, outcome: Outcome, out: Path, base: Path) -> None:
    """Writes the promoted version into `out`, complete or not at all: adapter or merged checkpoint, and the report."""
    version = daemon.status().promoted.version
    report = daemon.client.adapter(version).report_dir
    with publish_folder(out) as scratch, tempfile.TemporaryDirectory(dir=scratch.parent) as folder:
        adapter = Path(folder) / "adapter"
        daemon.client.export_adapter(version, adapter)
        if outcome.merged:
            merge_adapter(base, adapter, scratch)
        else:
            shutil.copytree(adapter, scratch, dirs_exist_ok=True)
        if report is not None:
            shutil.copytree(report, scratch / REPORT)
        (scratch / REPORT).mkdir(exist_ok=True)
        (scratch / REPORT / "outcome.json").write_text(outcome.model_dump_json(indent=2) + "\n")


@render.json_or_text
def _print(outcome: Outcome) -> render.JsonThenText:
    yield outcome.model_dump(mode="json")
    render.console.print(f"{outcome.outcome.replace('_', ' ')}: {escape(outcome.reason)}", soft_wrap=True)
    if outcome.folder is None:
        return
    facts = render.facts()
    facts.add_row("entropy", f"{render.entropy(outcome.entropy)} -> {render.entropy(outcome.entropy_after)}")
    facts.add_row("baseline", f"{outcome.baseline:.3f} nats per token")
    facts.add_row("accuracy", f"{render.share(outcome.accuracy)} -> {render.share(outcome.accuracy_after)}")
    facts.add_row("written", f"{'merged checkpoint' if outcome.merged else 'adapter'} and report in {outcome.folder}")
    render.console.print(facts)
