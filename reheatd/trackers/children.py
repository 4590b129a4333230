"""The processes of the trackers, as the daemon starts and shows them."""

import os

from reheatd.config import Settings
from reheatd.errors import ReheatdError
from reheatd.process.children import python_module
from reheatd.process.supervisor import Command
from reheatd.trackers import process
from reheatd.trackers.health import TrackerHealth
from reheatd.trackers.job_facts import policy_name
from reheatd.trackers.progress import progress_file, read_progress

GRACE_S = 15.0
"""How long a tracker may take to send the rest when the daemon stops; what is left is sent after the next start."""
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # What fails is tried again later; a server that is away would otherwise keep one call for many minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}
"""Variables that trackers get if the daemon's environment does not set them: none reports to its makers."""


def tracker_commands(settings: Settings) -> list[Command]:
    """The commands that start the trackers of the configuration."""
    return [_command(name, settings) for name in settings.trackers.names]


def tracker_health(settings: Settings) -> list[TrackerHealth]:
    """How the trackers of the configuration are, as their processes noted it last; this reads files."""
    return [_health(name, settings) for name in settings.trackers.names]


def _command(name: str, settings: Settings) -> Command:
    task = process.TrackerTask(
        name=name,
        data_dir=settings.data_dir.absolute(),
        database=settings.database_path.absolute(),
        adapters_dir=settings.adapters_dir.absolute(),
        policy=policy_name(settings.policy.model),
        project=settings.trackers.project,
        folder=settings.runs_dir.absolute(),
        mlflow_uri=settings.trackers.mlflow_uri,
    )
    env = {variable: value for variable, value in DEFAULTS.items() if variable not in os.environ}
    env[process.TASK_VARIABLE] = task.model_dump_json()
    return Command(f"tracker-{name}", python_module(process.__name__), env, GRACE_S)


def _health(name: str, settings: Settings) -> TrackerHealth:
    try:
        progress = read_progress(progress_file(settings.data_dir, name))
    except ReheatdError as error:
        return TrackerHealth(name=name, ok=False, detail=error.message, waiting=[], lost={})
    if progress is None:
        return TrackerHealth(name=name, ok=True, detail="starts", waiting=[], lost={})
    failing = {job_id: job.problem for job_id, job in progress.jobs.items() if job.failures}
    detail = progress.problem or ""
    if failing and not detail:
        *_, (job_id, problem) = failing.items()
        detail = f"has not taken what is new of {job_id}, and gets it again: {problem}"
    lost = ", ".join(progress.lost)
    if lost and not detail:
        detail = f"{lost} lost"
    ok = not (progress.problem or failing)
    return TrackerHealth(name=name, ok=ok, detail=detail, waiting=list(failing), lost=progress.lost)
