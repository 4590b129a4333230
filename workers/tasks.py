"""What a worker does with a job: it prepares, trains, measures and hands over the result.

This module is imported only in the process of the job.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch
from redis.exceptions import RedisError

from reheatd.entropy.probes import ProbeSet
from reheatd.errors import BadInputError, ConfigError, ReheatdError
from reheatd.jobs.attempts import begin_attempt
from reheatd.jobs.channel import JobChannel, JobNotWantedError
from reheatd.jobs.contracts import ImportResult, ImportSpec, JobBase, JobResult, ReheatSpec, TrainingSpec, step_limit
from reheatd.jobs.curves import CurveWriter
from reheatd.options import Checkpointing, NumberFormat
from reheatd.process.worker_command import REWARD_PATHS_ENV, REWARD_VARIABLES_ENV
from reheatd.task_data import TaskData, load_task
from workers.before_after import Evaluation
from workers.policy import Policy
from workers.progress import ChannelProgress, JobCancelledError, ProgressChannel
from workers.proof import build_proof
from workers.rewards.weighted import WeightedRewards
from workers.rollout_length import with_found_length
from workers.sampling.seeds import seed_for
from workers.sampling.served import ServedSampler
from workers.tracing import traced_attempt
from workers.training_job import TrainingJob

logger = logging.getLogger(__name__)

DTYPE_ENV = "REHEATD_WORKER_DTYPE"
CHECKPOINTING_ENV = "REHEATD_WORKER_GRADIENT_CHECKPOINTING"


def run_reported(
    spec: TrainingSpec | ImportSpec,
    attempt: int,
    credential: str,
    broker_url: str,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Runs a job and reports how it ends. An error is reported in one line, logged and raised.

    Args:
        credential: With it, this attempt at the job asks the gateway.
        headers: Those of the task's message, by which the job's trace goes on.
    """
    with (
        traced_attempt(spec.job_id, attempt, headers) as traced,
        JobChannel(broker_url, spec.job_id, attempt) as channel,
    ):
        channel.started()
        try:
            own, watched = begin_attempt(spec, attempt), traced(channel)
            result = (
                run_import(own, watched, credential) if isinstance(own, ImportSpec) else run(own, watched, credential)
            )
        except JobCancelledError:
            logger.info("job %s was cancelled", spec.job_id)
            channel.cancelled()
        except (JobNotWantedError, RedisError):
            raise  # a worker that cannot report has not failed its job; the daemon gives the job to another
        except ReheatdError as error:
            channel.failed(error.message)
            raise
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            channel.failed(f"{cause[:500]}; the worker's log has the traceback")
            raise
        else:
            channel.succeeded(result)


def run(spec: TrainingSpec, channel: ProgressChannel, credential: str | None = None) -> JobResult:
    """Trains as `spec` says, measures the outcome through the served engine, and reports what changed.

    Raises:
        JobCancelledError: The job was cancelled, at most one step or one batch of samples ago.
        ReheatdError: The input cannot be used, the engine failed, or training diverged.
    """
    started = time.monotonic()
    progress = ChannelProgress(channel, step_limit(spec), CurveWriter(spec.curves_file))
    progress.report("preparing", 0)
    # The user's files are read first, so that errors in them show before anything expensive begins.
    task, probes = _load(spec)
    prompts = [problem.messages for problem in task.train]
    with ExitStack() as stack:
        verifier, sampler = _enter(stack, spec, task, probes, progress, credential)
        spec = with_found_length(spec, sampler, task, progress)
        torch.manual_seed(spec.seed)
        policy = Policy.load(
            spec.model_path,
            spec.lora,
            spec.parent_adapter,
            dtype=_dtype(),
            checkpointing=_checkpointing(),
            seed=spec.seed,
        )
        # The report uses the probes, which are not training prompts. Training prompts are added only if there are too
        # few probes.
        report_prompts = [*map(list, probes.probes), *prompts][: spec.report_rollouts]
        evaluation = Evaluation(spec, spec.rollout_tokens, sampler, task.held_out, verifier, report_prompts, progress)
        job = TrainingJob(policy, sampler, task.train, verifier, progress, evaluation, started)
        return job.best_of_all(spec) if isinstance(spec, ReheatSpec) and spec.remedy == "auto" else job.run(spec)


def run_import(spec: ImportSpec, channel: ProgressChannel, credential: str | None = None) -> ImportResult:
    """Measures the adapter of an import through the served engine, and computes its proof items.

    Raises:
        JobCancelledError: The job was cancelled, at most one batch of samples ago.
        ReheatdError: The task's files cannot be used, or the engine failed or refused the adapter.
    """
    started = time.monotonic()
    progress = ChannelProgress(channel, spec.steps, CurveWriter(spec.curves_file))
    progress.report("preparing", 0)
    task, probes = _load(spec)
    with ExitStack() as stack:
        verifier, sampler = _enter(stack, spec, task, probes, progress, credential)
        spec = with_found_length(spec, sampler, task, progress)
        policy = Policy.load(spec.model_path, spec.lora, spec.adapter, dtype=_dtype(), seed=spec.seed)
        sampler.load(spec.adapter, 0)
        progress.report("measuring", 0)
        entropy = sampler.measure_entropy(seed_for("probes", spec.seed, 0))
        progress.report("evaluating", 0, {"probe_entropy": entropy.mean})
        rollouts = [*map(list, probes.probes)][: spec.report_rollouts]
        longest = spec.probes.max_tokens
        evaluation = Evaluation(spec, longest, sampler, task.held_out, verifier, rollouts, progress)
        measured = evaluation.after(0)
        return ImportResult(
            entropy=entropy,
            accuracy=measured.accuracy,
            accuracy_base=evaluation.base(None),
            proof=build_proof(policy, measured.rollouts),
            seconds=time.monotonic() - started,
        )


def _load(spec: JobBase) -> tuple[TaskData, ProbeSet]:
    """The task and the probes.

    Raises:
        BadInputError: Their files cannot be used, or the probes are not those of the daemon.
    """
    task = load_task(spec.task, spec.probes)
    probes = ProbeSet.of(task.probes)
    if spec.probes.digest not in ("", probes.digest):
        file = spec.probes.probes or spec.task.path or "the bundled task"
        raise BadInputError(
            f"the probes in {file} are not those that the daemon read when it started; restart the daemon, or give "
            "this worker the same file",
            param="entropy.probes" if spec.probes.probes else "task.path",
        )
    return task, probes


def _enter(
    stack: ExitStack,
    spec: JobBase,
    task: TaskData,
    probes: ProbeSet,
    progress: ChannelProgress,
    credential: str | None,
) -> tuple[WeightedRewards, ServedSampler]:
    """Starts what scores answers and what samples them.

    Raises:
        BadInputError: A reward cannot be loaded, or cannot use an answer of the task, or the policy has no prompt for a
            chat of it.
    """
    rewards = stack.enter_context(
        WeightedRewards(
            spec.task,
            on_progress=progress.count,
            readable=[Path(path) for path in json.loads(os.environ.get(REWARD_PATHS_ENV, "[]"))],
            variables=json.loads(os.environ.get(REWARD_VARIABLES_ENV, "[]")),
        )
    )
    rewards.check_answers([*task.held_out, *task.train])
    sampler = stack.enter_context(ServedSampler(spec, probes, progress.count, progress.look_up, credential=credential))
    sampler.check_chats([*task.held_out, *task.train])
    return rewards, sampler


def _dtype() -> NumberFormat:
    name = os.environ.get(DTYPE_ENV, "auto")
    if name not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"{DTYPE_ENV} = {name!r}; use auto, float32 or bfloat16")
    return cast(NumberFormat, name)


def _checkpointing() -> Checkpointing:
    name = os.environ.get(CHECKPOINTING_ENV, "auto")
    values: dict[str, Checkpointing] = {"auto": "auto", "true": True, "false": False}
    if name not in values:
        raise ConfigError(f"{CHECKPOINTING_ENV} = {name!r}; use auto, true or false")
    return values[name]
