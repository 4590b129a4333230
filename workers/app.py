"""The Celery application of the workers, which `reheatd worker` runs.

It reads three environment variables. REHEATD_BROKER_URL is the Redis URL of the daemon's broker. REHEATD_WORKER_DTYPE
is the number format of the frozen base model in this worker: auto (the default), float32 or bfloat16.
REHEATD_WORKER_GRADIENT_CHECKPOINTING is auto (the default), true or false.
"""

import os
from typing import Any

from celery import Task
from celery.signals import worker_init, worker_process_init
from pydantic import ValidationError

from reheatd.engine.launch import detect_device
from reheatd.errors import ConfigError
from reheatd.jobs.channel import refuse_spec
from reheatd.jobs.contracts import ImportSpec, ReheatSpec, RLSpec, TrainingSpec
from reheatd.jobs.dispatch import CONTINUE_RL_TASK, IMPORT_TASK, REHEAT_TASK, make_celery

BROKER_ENV = "REHEATD_BROKER_URL"


def _broker_url() -> str:
    try:
        return os.environ[BROKER_ENV]
    except KeyError:
        raise ConfigError(f"{BROKER_ENV} is not set; start workers with `reheatd worker`, which sets it") from None


app = make_celery(_broker_url())
# Celery replaces a process that is not up after four seconds. Importing torch takes longer, on a busy machine minutes.
app.conf.worker_proc_alive_timeout = 900.0


@worker_init.connect
def import_once(**_: Any) -> None:
    """Imports the training code before the processes that run jobs are forked.

    The imports take as long as a few training steps, and every job runs in a new process. With a GPU, every process
    does its own imports, because a process that is forked from one that has touched CUDA cannot use CUDA.
    """
    if detect_device() == "cpu":
        import workers.tasks  # noqa: F401


@worker_process_init.connect
def import_training_code(**_: Any) -> None:
    """Imports the training code in the process that waits for the next job, unless it was imported before."""
    import workers.tasks  # noqa: F401


@app.task(name=REHEAT_TASK, bind=True)
def reheat(self: Task, spec: dict[str, Any], attempt: int, credential: str) -> None:
    """Runs the job of a `ReheatSpec`."""
    _run(ReheatSpec, self, spec, attempt, credential)


@app.task(name=CONTINUE_RL_TASK, bind=True)
def continue_rl(self: Task, spec: dict[str, Any], attempt: int, credential: str) -> None:
    """Runs the job of an `RLSpec`."""
    _run(RLSpec, self, spec, attempt, credential)


@app.task(name=IMPORT_TASK, bind=True)
def measure_import(self: Task, spec: dict[str, Any], attempt: int, credential: str) -> None:
    """Runs the job of an `ImportSpec`."""
    _run(ImportSpec, self, spec, attempt, credential)


def _run(
    kind: type[TrainingSpec] | type[ImportSpec], task: Task, spec: dict[str, Any], attempt: int, credential: str
) -> None:
    from workers.tasks import run_reported

    try:
        parsed = kind.model_validate(spec)
    except ValidationError as error:
        refuse_spec(_broker_url(), spec, attempt, error)
    else:
        run_reported(parsed, attempt, credential, _broker_url(), task.request.headers or {})
