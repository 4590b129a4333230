"""What a worker does with a job: prepare, train, measure, hand the result over. Imported inside the job's process."""

import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import torch

from reheatd.entropy.probes import load_probes
from reheatd.errors import ConfigError, ReheatdError
from reheatd.files import write_atomically
from reheatd.jobs.channel import JobChannel, JobNotWantedError
from reheatd.jobs.contracts import JobResult, ReheatSpec, RLSpec
from reheatd.measures import Accuracy, Contract, PassAtK
from reheatd.options import NumberFormat
from workers.checkpoint import Checkpoints
from workers.comparison import compare
from workers.evaluation import measure_accuracy, measure_pass_at_k
from workers.grpo import Grpo, RLOutcome
from workers.policy import Policy
from workers.progress import ChannelProgress, JobCancelledError, Progress, ProgressChannel
from workers.proof import COMPLETION_TOKENS, build_proof
from workers.report import make_report, write_report
from workers.rewards.verifier import Verifier
from workers.sampling.rollout import Rollout, Sampler
from workers.sampling.served import ServedSampler
from workers.task_data import Messages, Problem, load_prompts, load_task
from workers.ts_opsd import Reheater, ReheatOutcome

logger = logging.getLogger(__name__)

DTYPE_ENV = "REHEATD_WORKER_DTYPE"


def run_reported(spec: ReheatSpec | RLSpec, attempt: int, broker_url: str) -> None:
    """Runs a job and reports how it ends. Whatever goes wrong is reported in one line, logged and raised."""
    with JobChannel(broker_url, spec.job_id, attempt) as channel:
        channel.started()
        try:
            result = run(spec, channel)
        except JobCancelledError:
            logger.info("job %s was cancelled", spec.job_id)
            channel.cancelled()
        except JobNotWantedError:
            raise
        except ReheatdError as error:
            channel.failed(error.message)
            raise
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            channel.failed(f"{cause[:500]}; the worker's log has the traceback")
            raise
        else:
            channel.succeeded(result)


def run(spec: ReheatSpec | RLSpec, channel: ProgressChannel) -> JobResult:
    """Trains as `spec` says, measures the outcome through the served engine and reports what changed.

    Raises:
        JobCancelledError: The job was cancelled; at the latest one step or one batch of samples after that.
        ReheatdError: The input cannot be used, the engine failed, or training diverged.
    """
    started = time.monotonic()
    progress = ChannelProgress(channel, spec.steps)
    progress.report("preparing", 0)
    # What can be wrong with the user's files shows before anything expensive begins.
    task = load_task(spec.task.path, spec.task.eval_count)
    prompts = load_prompts()
    probes = load_probes(spec.probes.probes, spec.probes.probe_count)
    with ExitStack() as stack:
        verifier = stack.enter_context(Verifier(spec.task.reward, timeout_s=spec.task.reward_timeout_s))
        sampler = stack.enter_context(ServedSampler(spec, probes))
        torch.manual_seed(spec.seed)
        policy = Policy.load(spec.model_path, spec.lora, spec.parent_adapter, dtype=_dtype(), seed=spec.seed)
        # The probes are no training prompts; those only fill up where few probes are configured.
        report_prompts = [*map(list, probes.probes), *prompts][: spec.report_rollouts]
        evaluation = Evaluation(spec, sampler, task.held_out, verifier, report_prompts, progress)
        before = evaluation.before()
        checkpoints = Checkpoints(spec)
        outcome: ReheatOutcome | RLOutcome
        if isinstance(spec, ReheatSpec):
            outcome = Reheater(policy, spec, sampler, prompts, progress, checkpoints).run()
        else:
            outcome = Grpo(policy, spec, sampler, task.train, verifier, progress, checkpoints).run()
        progress.report("evaluating", outcome.steps, {"probe_entropy": outcome.entropy_after.mean})
        accuracy_after = evaluation.accuracy(outcome.steps)
        pass_at_k_after = evaluation.pass_at_k(outcome.steps)
        student_rollouts = evaluation.rollouts(outcome.steps)
        progress.report("reporting", outcome.steps)
        comparison = compare(policy, before.rollouts, student_rollouts)
        result = JobResult(
            adapter_dir=spec.output_dir / "result",
            report_dir=spec.output_dir / "report",
            steps=outcome.steps,
            tau=outcome.tau if isinstance(outcome, ReheatOutcome) else None,
            entropy_before=outcome.entropy_before,
            entropy_after=outcome.entropy_after,
            accuracy_before=before.accuracy,
            accuracy_after=accuracy_after,
            pass_at_k_before=before.pass_at_k,
            pass_at_k_after=pass_at_k_after,
            proof=build_proof(policy, student_rollouts),
            metrics=progress.metrics,
            stopped=outcome.stopped if isinstance(outcome, ReheatOutcome) else "steps",
            seconds=time.monotonic() - started,
        )
        for leftover in ("report", "result"):  # of a worker that died before it could report them
            shutil.rmtree(spec.output_dir / leftover, ignore_errors=True)
        write_report(spec.output_dir / "report", make_report(spec, result, comparison))
        policy.save(result.adapter_dir, spec.model_path)
        return result


class Before(Contract):
    """What the report compares with."""

    accuracy: Accuracy
    pass_at_k: PassAtK | None
    rollouts: list[Rollout]


@dataclass(frozen=True)
class Evaluation:
    """Measures whatever version is sampled from at the moment; what is known of it already is taken over."""

    spec: ReheatSpec | RLSpec
    sampler: Sampler
    held_out: Sequence[Problem]
    verifier: Verifier
    report_prompts: Sequence[Messages]
    progress: Progress

    def before(self) -> "Before":
        """The parent measured, once per job: a worker that resumes it takes over what was found."""
        file = self.spec.output_dir / "before.json"
        if file.exists():
            return Before.model_validate_json(file.read_text())
        before = Before(
            accuracy=self.accuracy(0, self.spec.parent_accuracy),
            pass_at_k=self.pass_at_k(0, self.spec.parent_pass_at_k),
            rollouts=self.rollouts(0),
        )
        write_atomically(file, before.model_dump_json().encode())
        return before

    def accuracy(self, step: int, known: Accuracy | None = None) -> Accuracy:
        self.progress.report("evaluating", step)
        accuracy = known or measure_accuracy(
            self.sampler, self.held_out, self.verifier, max_tokens=self.spec.task.eval_max_tokens
        )
        self.progress.report("evaluating", step, {"accuracy": accuracy.value})
        return accuracy

    def pass_at_k(self, step: int, known: PassAtK | None = None) -> PassAtK | None:
        samples = self.spec.task.eval_samples
        if not samples:
            return None
        measured = known or measure_pass_at_k(
            self.sampler,
            self.held_out,
            self.verifier,
            samples=samples,
            max_tokens=self.spec.task.eval_max_tokens,
            seed=self.spec.seed,
        )
        best = measured.rates[-1]
        self.progress.report("evaluating", step, {f"pass_at_{best.k}": best.value})
        return measured

    def rollouts(self, step: int) -> list[Rollout]:
        """One completion of each of the report's prompts, as long as a probe's; the proof needs its own length."""
        self.progress.report("evaluating", step)
        length = max(self.spec.probes.max_tokens, COMPLETION_TOKENS)
        groups = self.sampler.sample(self.report_prompts, n=1, max_tokens=length, temperature=1.0, seed=self.spec.seed)
        return [rollout for group in groups for rollout in group]


def _dtype() -> NumberFormat:
    name = os.environ.get(DTYPE_ENV, "auto")
    if name not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"{DTYPE_ENV} = {name!r}; use auto, float32 or bfloat16")
    return cast(NumberFormat, name)
