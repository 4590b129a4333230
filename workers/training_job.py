"""A job that trains: it applies one remedy, several of them, or RL, and makes a result of each."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reheatd.files import write_atomically
from reheatd.jobs.contracts import JobResult, ReheatSpec, TrainingSpec, step_limit
from reheatd.jobs.curves import CurveWriter, read_curves
from reheatd.jobs.rollouts import RolloutRecorder
from reheatd.options import Remedy
from reheatd.signal import Signal
from reheatd.task_data import Problem
from workers.before_after import Evaluated, Evaluation
from workers.candidates import Candidate, make_candidates
from workers.checkpoint import Checkpoints
from workers.comparison import compare
from workers.grpo import Grpo
from workers.policy import Policy
from workers.progress import ChannelProgress
from workers.proof import build_proof
from workers.remedies import Outcome, make_trainer
from workers.report import make_report, write_report
from workers.rewards.scoring import Scorer
from workers.sampling.recording import Recording
from workers.sampling.rollout_entropy import MeasuredSampling
from workers.sampling.served import ServedSampler
from workers.sampling.token_texts import token_texts
from workers.shrink import ShrinkOutcome
from workers.signal_meter import SignalMeter
from workers.ts_opsd import ReheatOutcome

LOST_FILE = "lost.json"
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class TrainingJob:
    """What is at hand to carry out a job, with the parent as the policy's student."""

    policy: Policy
    sampler: ServedSampler
    problems: Sequence[Problem]
    """The problems that are trained on."""
    verifier: Scorer
    progress: ChannelProgress
    evaluation: Evaluation
    started: float
    """When the job began, by `time.monotonic`."""

    def run(self, spec: TrainingSpec) -> JobResult:
        """Trains as `spec` says, measures parent and student, and writes adapter and report to `spec.output_dir`."""
        return self._trained(spec, self.evaluation.before(), None, None)

    def best_of_all(self, spec: ReheatSpec) -> JobResult:
        """Makes the candidates of `auto`, each in a folder of its own.

        Returns:
            The result with most signal, which has the others as its alternatives.
        """
        before, parent = self.evaluation.before(), self.policy.weights()
        lost = spec.output_dir / LOST_FILE
        meter = SignalMeter(spec, self.sampler, self.problems, self.verifier, self.progress, lost)

        def make(remedy: Remedy) -> Candidate[JobResult]:
            folder = _candidate(spec, remedy)
            finished = folder / RESULT_FILE
            if finished.exists():  # by a worker that died while it made a later one
                result = JobResult.model_validate_json(finished.read_text())
            else:
                folder.mkdir(parents=True, exist_ok=True)
                self.policy.set_weights(parent)
                self.sampler.publish(self.policy, 0)
                one = spec.model_copy(update={"remedy": remedy, "output_dir": folder})
                self.progress.turn_to(step_limit(one), CurveWriter(one.curves_file))
                _show(spec, folder)
                result = self._trained(one, before, meter.before, meter)
                write_atomically(finished, result.model_dump_json().encode())
            assert result.signal_after is not None
            return Candidate(remedy, result, result.signal_after)

        best, *others = [candidate.made for candidate in make_candidates(meter.before, make)]
        assert best.remedy is not None
        _show(spec, _candidate(spec, best.remedy))
        return best.model_copy(update={"alternatives": others, "seconds": time.monotonic() - self.started})

    def _trained(
        self, spec: TrainingSpec, before: Evaluated, signal: Signal | None, meter: SignalMeter | None
    ) -> JobResult:
        """Applies one remedy, or RL, to the student."""
        recorder = RolloutRecorder(spec.rollouts_file, steps=step_limit(spec), keep=spec.rollouts_kept)
        has_texts = self.policy.tokenizer is not None
        recording = Recording(recorder, partial(token_texts, self.policy.decode) if has_texts else None)
        sampling = MeasuredSampling(self.sampler, spec, self.progress.rollouts)
        trainer = make_trainer(
            self.policy, spec, sampling, self.problems, self.verifier, self.progress, Checkpoints(spec), recording
        )
        outcome = trainer.run()
        self.progress.report("evaluating", outcome.steps, {"probe_entropy": outcome.entropy_after.mean})
        after = self.evaluation.after(outcome.steps)
        signal_after = meter.measure() if meter is not None else None
        self.progress.report("reporting", outcome.steps)
        comparison = compare(self.policy, before.completions, after.completions)
        result = JobResult(
            adapter_dir=spec.output_dir / "result",
            report_dir=spec.output_dir / "report",
            **_how_it_ended(outcome),
            remedy=spec.remedy if isinstance(spec, ReheatSpec) else None,
            entropy_before=outcome.entropy_before,
            entropy_after=outcome.entropy_after,
            accuracy_before=before.accuracy,
            accuracy_after=after.accuracy,
            accuracy_base=self.evaluation.base(before),
            signal_before=signal,
            signal_after=signal_after,
            proof=build_proof(self.policy, after.rollouts),
            metrics=self.progress.metrics,
            seconds=time.monotonic() - self.started,
        )
        for leftover in ("report", "result"):  # from a worker that died before it could report them
            shutil.rmtree(spec.output_dir / leftover, ignore_errors=True)
        report = make_report(spec, result, comparison)
        write_report(spec.output_dir / "report", report, read_curves(spec.curves_file))
        self.policy.save(result.adapter_dir, spec.model_path)
        if isinstance(trainer, Grpo):
            trainer.save_optimizer(result.adapter_dir)
        return result


def _candidate(spec: ReheatSpec, remedy: Remedy) -> Path:
    return spec.output_dir / "candidates" / remedy


def _show(spec: ReheatSpec, candidate: Path) -> None:
    """Makes the curves and rollouts of a candidate those of the job, for `reheatd jobs curves` and `jobs rollouts`."""
    for file in (spec.curves_file, spec.rollouts_file):
        link = file.with_name(f".{file.name}.link")
        link.unlink(missing_ok=True)
        link.symlink_to((candidate / file.name).relative_to(file.parent))
        link.replace(file)


def _how_it_ended(outcome: Outcome) -> dict[str, Any]:
    """The fields of `JobResult` that training decides."""
    fields: dict[str, Any] = {"steps": outcome.steps, "stopped": outcome.stopped}
    if isinstance(outcome, ShrinkOutcome):
        return fields | {"factor": outcome.factor, "updates": 0}
    if isinstance(outcome, ReheatOutcome):
        return fields | {"tau": outcome.tau, "updates": outcome.steps}
    return fields | {"updates": outcome.updates, "place": outcome.place, "why_stopped": outcome.why_stopped}
