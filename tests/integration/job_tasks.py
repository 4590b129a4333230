"""A Celery worker whose jobs train nothing: `task.reward` of the specification says how they behave."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from celery.signals import worker_process_init
from pydantic import ValidationError
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry
from safetensors.numpy import save_file

from reheatd.adapters.lineage import ProofItem
from reheatd.jobs import channel, dispatch
from reheatd.jobs.channel import JobChannel, refuse_spec
from reheatd.jobs.contracts import JobResult, ReheatSpec
from reheatd.jobs.dispatch import CONTINUE_RL_TASK, REHEAT_TASK, make_celery
from reheatd.measures import Accuracy, EntropyEstimate
from tests.integration.job_keys import may_finish_key

# Quick heartbeats, so that a test sees them end.
channel.BEAT_S = 0.2
channel.ALIVE_S = 2

URL = os.environ["REHEATD_BROKER_URL"]
dispatch.VISIBILITY_S = int(os.environ.get("TEST_VISIBILITY_S", dispatch.VISIBILITY_S))
dispatch.RESTORE_EVERY_S = min(dispatch.RESTORE_EVERY_S, dispatch.VISIBILITY_S)
broker = Redis.from_url(URL, retry=Retry(ConstantBackoff(0.1), retries=1000), retry_on_error=[ConnectionError])
app = make_celery(URL)
app.conf.worker_proc_alive_timeout = 900.0
STEPS = 3


def result(spec: dict[str, Any]) -> JobResult:
    """A result whose adapter the store can publish, if the job's folder exists."""
    folder = Path(spec["output_dir"])
    if folder.is_dir():
        save_file({"lora_B.weight": np.ones((1, 1), np.float32)}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}")
    solved = [1, 0] * 24
    accuracy = Accuracy(value=0.5, low=0.36, high=0.64, problems=48, solved=solved, problem_set="always these")
    return JobResult(
        adapter_dir=folder,
        steps=STEPS,
        entropy_before=EntropyEstimate(mean=1.0, low=0.9, high=1.1, tokens=900, sequences=32),
        entropy_after=EntropyEstimate(mean=1.7, low=1.6, high=1.8, tokens=900, sequences=32),
        accuracy_before=accuracy,
        accuracy_after=accuracy,
        proof=[ProofItem(prompt_ids=[1], completion_ids=[2], logprobs=[-1.0], base_logprobs=[-2.0])],
        stopped="steps",
        seconds=0.1,
    )


@worker_process_init.connect
def import_slowly(**_: Any) -> None:
    """Keeps the process that runs jobs from being ready, for as long as a file is there."""
    while os.path.exists(os.environ.get("TEST_SLOW_START_FILE", "")):
        time.sleep(0.05)


@app.task(name=REHEAT_TASK)
def reheat(spec: dict[str, Any], attempt: int, credential: str) -> None:
    try:
        ReheatSpec.model_validate(spec)
    except ValidationError as error:
        refuse_spec(URL, spec, attempt, error)
    behaviour = spec["task"]["reward"]
    with JobChannel(URL, spec["job_id"], attempt) as report:
        report.started()
        if behaviour == "die" or (behaviour == "die-twice" and attempt <= 2):
            os._exit(1)
        if behaviour == "overtaken" and attempt == 1:
            while True:  # a worker that lives on while the daemon has given it up
                report.progress("training", 0, STEPS, {})
                time.sleep(0.05)
        if behaviour == "hang":
            threading.Event().wait()
        for step in range(1, STEPS + 1):
            report.progress("training", step, STEPS, {"loss": 1.0 / step})
        if behaviour == "fail":
            report.failed("out of memory; use fewer prompts_per_step")
            return
        while behaviour == "obey" or (behaviour == "slow" and not broker.exists(may_finish_key(spec["job_id"]))):
            if report.is_cancelled():
                report.cancelled()
                return
            time.sleep(0.05)
        report.succeeded(result(spec))


@app.task(name=CONTINUE_RL_TASK)
def continue_rl(spec: dict[str, Any], attempt: int, credential: str) -> None:
    reheat(spec, attempt, credential)
