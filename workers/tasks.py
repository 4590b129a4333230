"""What a worker does with a job: it prepares, trains, measures and hands over the result.

This module is imported only in the process of the job.
"""

import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch

from reheatd.entropy.probes import ProbeSet
from reheatd.errors import BadInputError, ConfigError, ReheatdError
from reheatd.files import write_atomically
from reheatd.jobs.channel import JobChannel, JobNotWantedError
from reheatd.jobs.contracts import ImportResult, ImportSpec, JobBase, JobResult, ReheatSpec, TrainingSpec
from reheatd.jobs.curves import CurveWriter, read_curves
from reheatd.jobs.rollouts import RolloutRecorder
from reheatd.json_lines import Messages
from reheatd.measures import Accuracy, Contract
from reheatd.options import NumberFormat
from reheatd.task_data import Problem, TaskData, load_task, problem_set_digest
from workers.checkpoint import Checkpoints
from workers.comparison import Completions, compare
from workers.evaluation import accuracy_of, evaluation_batch
from workers.grpo import Grpo, RLOutcome
from workers.policy import Policy
from workers.progress import ChannelProgress, JobCancelledError, Progress, ProgressChannel
from workers.proof import COMPLETION_TOKENS, build_proof
from workers.report import make_report, write_report
from workers.rewards.verifier import Verifier
from workers.sampling.recording import RecordedSampling
from workers.sampling.rollout import Batch, Rollout
from workers.sampling.rollout_entropy import MeasuredSampling
from workers.sampling.seeds import seed_for
from workers.sampling.served import ServedSampler
from workers.ts_opsd import Reheater, ReheatOutcome

logger = logging.getLogger(__name__)

DTYPE_ENV = "REHEATD_WORKER_DTYPE"


def run_reported(spec: TrainingSpec | ImportSpec, attempt: int, broker_url: str) -> None:
    """Runs a job and reports how it ends. An error is reported in one line, logged and raised."""
    with JobChannel(broker_url, spec.job_id, attempt) as channel:
        channel.started()
        try:
            result = run_import(spec, channel) if isinstance(spec, ImportSpec) else run(spec, channel)
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


def run(spec: TrainingSpec, channel: ProgressChannel) -> JobResult:
    """Trains as `spec` says, measures the outcome through the served engine, and reports what changed.

    Raises:
        JobCancelledError: The job was cancelled, at most one step or one batch of samples ago.
        ReheatdError: The input cannot be used, the engine failed, or training diverged.
    """
    started = time.monotonic()
    progress = ChannelProgress(channel, spec.steps, CurveWriter(spec.curves_file))
    progress.report("preparing", 0)
    # The user's files are read first, so that errors in them show before anything expensive begins.
    task, probes = _load(spec)
    prompts = [problem.messages for problem in task.train]
    with ExitStack() as stack:
        verifier, sampler = _enter(stack, spec, probes, progress)
        torch.manual_seed(spec.seed)
        policy = Policy.load(spec.model_path, spec.lora, spec.parent_adapter, dtype=_dtype(), seed=spec.seed)
        # The report uses the probes, which are not training prompts. Training prompts are added only if there are too
        # few probes.
        report_prompts = [*map(list, probes.probes), *prompts][: spec.report_rollouts]
        evaluation = Evaluation(spec, spec.max_tokens, sampler, task.held_out, verifier, report_prompts, progress)
        before = evaluation.before()
        checkpoints = Checkpoints(spec)
        recorder = RolloutRecorder(spec.rollouts_file, steps=spec.steps, keep=spec.rollouts_kept)
        measured = MeasuredSampling(sampler, spec, progress.rollouts)
        trainer: Reheater | Grpo
        if isinstance(spec, ReheatSpec):
            recorded = RecordedSampling(measured, recorder)
            trainer = Reheater(policy, spec, recorded, prompts, progress, checkpoints)
        else:
            trainer = Grpo(policy, spec, measured, task.train, verifier, progress, checkpoints, recorder)
        outcome = trainer.run()
        progress.report("evaluating", outcome.steps, {"probe_entropy": outcome.entropy_after.mean})
        after = evaluation.after(outcome.steps)
        progress.report("reporting", outcome.steps)
        comparison = compare(policy, before.completions, after.completions)
        result = JobResult(
            adapter_dir=spec.output_dir / "result",
            report_dir=spec.output_dir / "report",
            **_how_it_ended(outcome),
            entropy_before=outcome.entropy_before,
            entropy_after=outcome.entropy_after,
            accuracy_before=before.accuracy,
            accuracy_after=after.accuracy,
            proof=build_proof(policy, after.rollouts),
            metrics=progress.metrics,
            seconds=time.monotonic() - started,
        )
        for leftover in ("report", "result"):  # from a worker that died before it could report them
            shutil.rmtree(spec.output_dir / leftover, ignore_errors=True)
        report = make_report(spec, result, comparison)
        write_report(spec.output_dir / "report", report, read_curves(spec.curves_file))
        policy.save(result.adapter_dir, spec.model_path)
        if isinstance(trainer, Grpo):
            trainer.save_optimizer(result.adapter_dir)
        return result


def _how_it_ended(outcome: ReheatOutcome | RLOutcome) -> dict[str, Any]:
    """The fields of `JobResult` that training decides."""
    fields: dict[str, Any] = {"steps": outcome.steps, "stopped": outcome.stopped}
    if isinstance(outcome, ReheatOutcome):
        return fields | {"tau": outcome.tau, "updates": outcome.steps}
    return fields | {"updates": outcome.updates, "place": outcome.place, "why_stopped": outcome.why_stopped}


def run_import(spec: ImportSpec, channel: ProgressChannel) -> ImportResult:
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
        verifier, sampler = _enter(stack, spec, probes, progress)
        policy = Policy.load(spec.model_path, spec.lora, spec.adapter, dtype=_dtype(), seed=spec.seed)
        sampler.load(spec.adapter, 0)
        progress.report("measuring", 0)
        entropy = sampler.measure_entropy(seed_for("probes", spec.seed, 0))
        progress.report("evaluating", 0, {"probe_entropy": entropy.mean})
        rollouts = [*map(list, probes.probes)][: spec.report_rollouts]
        longest = spec.probes.max_tokens
        measured = Evaluation(spec, longest, sampler, task.held_out, verifier, rollouts, progress).after(0)
        return ImportResult(
            entropy=entropy,
            accuracy=measured.accuracy,
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
    stack: ExitStack, spec: JobBase, probes: ProbeSet, progress: ChannelProgress
) -> tuple[Verifier, ServedSampler]:
    """Starts what scores answers and what samples them."""
    timeout_s = spec.task.reward_timeout_s
    verifier = stack.enter_context(Verifier(spec.task.reward, timeout_s=timeout_s, on_progress=progress.count))
    return verifier, stack.enter_context(ServedSampler(spec, probes, on_progress=progress.count))


class Evaluated(Contract):
    """The measurements of parent or student, and the completions on which the report compares them."""

    accuracy: Accuracy
    rollouts: list[Rollout]
    """Sampled at temperature 1."""
    greedy: list[Rollout]
    """Sampled at temperature 0 for the same prompts."""

    @property
    def completions(self) -> Completions:
        return Completions(self.rollouts, self.greedy)


@dataclass(frozen=True)
class Evaluation:
    """Measures the version that the sampler samples from at the moment, reusing what is known of it already."""

    spec: JobBase
    max_tokens: int
    """Longest answer to a held-out problem, unless `task.eval_max_tokens` sets it."""
    sampler: ServedSampler
    held_out: Sequence[Problem]
    verifier: Verifier
    report_prompts: Sequence[Messages]
    """Prompts of the report's rollouts, beginning with those of the probes."""
    progress: Progress

    def before(self) -> Evaluated:
        """Measures the parent, once per job; a worker that resumes the job reads the stored result."""
        file = self.spec.output_dir / "before.json"
        if file.exists():
            return Evaluated.model_validate_json(file.read_text())
        known = self.spec.parent_accuracy
        # The file of the task may have changed since the parent was measured.
        same_problems = known is not None and known.problem_set == problem_set_digest(self.held_out)
        before = self._evaluate(0, [], known if same_problems else None)
        write_atomically(file, before.model_dump_json().encode())
        return before

    def after(self, step: int) -> Evaluated:
        """Measures the student.

        Training has just measured the student's entropy on the probes; the same answers also serve the report.
        """
        long_enough = self.spec.probes.max_tokens >= COMPLETION_TOKENS
        return self._evaluate(step, self.sampler.probed if long_enough else [])

    def _evaluate(self, step: int, rollouts: list[Rollout], accuracy: Accuracy | None = None) -> Evaluated:
        """Samples everything that is missing at once, and scores it."""
        spec, problems, prompts = self.spec, self.held_out, self.report_prompts
        # At least as long as a probe's answer, and at least as long as the proof needs.
        length = max(spec.probes.max_tokens, COMPLETION_TOKENS)
        batches: dict[str, Batch] = {}
        if accuracy is None:
            seed = seed_for("answers", spec.seed)
            batches["accuracy"] = evaluation_batch(problems, spec.task, self.max_tokens, seed)
        if len(rollouts) < len(prompts):
            seed = seed_for("report", spec.seed)
            batches["rollouts"] = Batch(prompts[len(rollouts) :], 1, length, temperature=1.0, seed=seed)
        # As long as the rollouts: completions of different lengths would seem to differ more than they do.
        batches["greedy"] = Batch(prompts, 1, length, temperature=0.0, seed=0)
        self.progress.report("evaluating", step)
        answers = dict(zip(batches, self.sampler.sample_all([*batches.values()]), strict=True))
        self.progress.report("scoring", step)
        model = self.sampler.model
        if accuracy is None:
            samples = spec.task.eval_samples
            accuracy = accuracy_of(answers["accuracy"], problems, self.verifier, model=model, samples=samples)
        sampled = [rollout for group in answers.get("rollouts", []) for rollout in group]
        evaluated = Evaluated(
            accuracy=accuracy,
            rollouts=[*rollouts, *sampled][: len(prompts)],
            greedy=[rollout for group in answers["greedy"] for rollout in group],
        )
        self.progress.report("evaluating", step, _figures(evaluated))
        return evaluated


def _figures(evaluated: Evaluated) -> dict[str, float]:
    best = evaluated.accuracy.pass_at[-1]
    return {"accuracy": evaluated.accuracy.value, f"pass_at_{best.k}": best.value}


def _dtype() -> NumberFormat:
    name = os.environ.get(DTYPE_ENV, "auto")
    if name not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"{DTYPE_ENV} = {name!r}; use auto, float32 or bfloat16")
    return cast(NumberFormat, name)
