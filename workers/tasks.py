"""What a worker does with a job: prepare, train, measure, hand the result over. Imported inside the job's process."""

import logging
import os
import time
from contextlib import ExitStack
from typing import cast

import torch

from reheatd.entropy.probes import load_probes
from reheatd.errors import ConfigError, ReheatdError
from reheatd.jobs.contracts import JobResult, ReheatSpec, RLSpec
from reheatd.jobs.reporter import JobReporter
from workers.evaluation import measure_accuracy
from workers.grpo import Grpo, RLOutcome
from workers.policy import DtypeName, Policy
from workers.progress import JobCancelledError, ReportedProgress, Reporter
from workers.proof import build_proof
from workers.rewards.verifier import Verifier
from workers.rollouts import ServedSampler
from workers.task_data import load_prompts, load_task
from workers.ts_opsd import Reheater, ReheatOutcome

logger = logging.getLogger(__name__)

DTYPE_ENV = "REHEATD_WORKER_DTYPE"
EVAL_TOKENS = 48
"""Longest answer to a held-out problem, tokens."""


def run_reported(spec: ReheatSpec | RLSpec, broker_url: str) -> None:
    """Runs a job and reports how it ends. Whatever goes wrong is reported in one line, logged and raised."""
    with JobReporter(broker_url, spec.job_id) as reporter:
        reporter.started()
        try:
            result = run(spec, reporter)
        except JobCancelledError:
            logger.info("job %s was cancelled", spec.job_id)
            reporter.cancelled()
        except ReheatdError as error:
            reporter.failed(error.message)
            raise
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            reporter.failed(f"{cause[:500]}; the worker's log has the traceback")
            raise
        else:
            reporter.succeeded(result)


def run(spec: ReheatSpec | RLSpec, reporter: Reporter) -> JobResult:
    """Trains as `spec` says and measures the outcome through the served engine.

    Raises:
        JobCancelledError: The job was cancelled; at the latest one step or one batch of samples after that.
        ReheatdError: The input cannot be used, the engine failed, or training diverged.
    """
    started = time.monotonic()
    progress = ReportedProgress(reporter, spec.steps)
    progress.report("preparing", 0)
    # What can be wrong with the user's files shows before anything expensive begins.
    task = load_task(spec.task.path, spec.task.eval_count)
    prompts = load_prompts()
    probes = load_probes(spec.probes.path, spec.probes.count)
    with ExitStack() as stack:
        verifier = stack.enter_context(Verifier(spec.task.reward))
        sampler = stack.enter_context(ServedSampler(spec, probes))
        torch.manual_seed(spec.seed)
        policy = Policy.load(spec.model_path, spec.lora, spec.parent_adapter, dtype=_dtype(), seed=spec.seed)
        accuracy_before = spec.parent_accuracy
        if accuracy_before is None:
            progress.report("evaluating", 0)
            accuracy_before = measure_accuracy(sampler, task.held_out, verifier, max_tokens=EVAL_TOKENS)
        progress.report("evaluating", 0, {"accuracy": accuracy_before.value})
        outcome: ReheatOutcome | RLOutcome
        if isinstance(spec, ReheatSpec):
            outcome = Reheater(policy, spec, sampler, prompts, progress).run()
        else:
            outcome = Grpo(policy, spec, sampler, task.train, verifier, progress).run()
        progress.report("evaluating", outcome.steps, {"probe_entropy": outcome.entropy_after.mean})
        accuracy_after = measure_accuracy(sampler, task.held_out, verifier, max_tokens=EVAL_TOKENS)
        progress.report("evaluating", outcome.steps, {"accuracy": accuracy_after.value})
        proof = build_proof(policy, sampler, prompts, spec.seed)
        result_dir = spec.output_dir / "result"
        policy.save(result_dir, spec.model_path)
        return JobResult(
            adapter_dir=result_dir,
            steps=outcome.steps,
            tau=outcome.tau if isinstance(outcome, ReheatOutcome) else None,
            entropy_before=outcome.entropy_before,
            entropy_after=outcome.entropy_after,
            accuracy_before=accuracy_before,
            accuracy_after=accuracy_after,
            proof=proof,
            metrics=progress.metrics,
            stopped=outcome.stopped if isinstance(outcome, ReheatOutcome) else "steps",
            seconds=time.monotonic() - started,
        )


def _dtype() -> DtypeName:
    name = os.environ.get(DTYPE_ENV, "auto")
    if name not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"{DTYPE_ENV} = {name!r}; use auto, float32 or bfloat16")
    return cast(DtypeName, name)
