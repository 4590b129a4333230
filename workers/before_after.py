"""Measures a job's parent and its student in the same way: accuracy, and the completions that the report compares."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reheatd.files import write_atomically
from reheatd.jobs.contracts import JobBase
from reheatd.json_lines import Messages
from reheatd.measures import Accuracy, Contract
from reheatd.reference.answers import ReferenceAnswers
from reheatd.task_data import Problem, problem_set_digest
from workers.comparison import Completions
from workers.evaluation import accuracy_of, accuracy_of_texts, evaluation_batch, measure_accuracy
from workers.progress import Progress
from workers.proof import COMPLETION_TOKENS
from workers.rewards.scoring import Scorer
from workers.sampling.rollout import Batch, Rollout
from workers.sampling.seeds import seed_for
from workers.sampling.served import ServedSampler

logger = logging.getLogger(__name__)


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
    verifier: Scorer
    report_prompts: Sequence[Messages]
    """Prompts of the report's rollouts, beginning with those of the probes."""
    progress: Progress

    def before(self) -> Evaluated:
        """Measures the parent, once per job; a worker that resumes the job reads the stored result."""
        file = self.spec.output_dir / "before.json"
        if file.exists():
            return Evaluated.model_validate_json(file.read_text())
        before = self._evaluate(0, [], self._if_comparable(self.spec.parent_accuracy))
        write_atomically(file, before.model_dump_json().encode())
        return before

    def base(self, before: Evaluated | None) -> Accuracy | None:
        """The accuracy of the base, or of the reference, which says what training may have lost.

        The base is sampled unless its accuracy is known already. The reference has answered while its engine ran.

        Args:
            before: The measurements of the job's parent; None if the job has none.

        Returns:
            None if the reference was asked other problems: the task's file has changed since.
        """
        file = self.spec.output_dir / "base.json"
        if file.exists():
            return Accuracy.model_validate_json(file.read_text())
        if self.spec.reference_answers is not None:
            found = self._reference(self.spec.reference_answers)
        elif before is not None and self.spec.parent_version == 0:
            found = before.accuracy
        else:
            found = self._if_comparable(self.spec.base_accuracy) or self._sampled_base()
        if found is not None:
            write_atomically(file, found.model_dump_json().encode())
        return found

    def _sampled_base(self) -> Accuracy:
        self.progress.report("evaluating the base", 0)
        batch = evaluation_batch(self.held_out, self.spec.task, self.max_tokens, seed_for("answers", self.spec.seed))
        with self.sampler.as_base() as sampler:
            return measure_accuracy(sampler, self.held_out, self.verifier, batch)

    def _reference(self, file: Path) -> Accuracy | None:
        stored, length = ReferenceAnswers.read(file), self.spec.task.eval_max_tokens or self.max_tokens
        if stored is None or stored.key.problem_set != problem_set_digest(self.held_out):
            logger.warning("%s has no answers to these problems; restart the daemon, which asks the reference", file)
            return None
        if stored.key.max_tokens != length:
            logger.warning("the reference has answered with %d tokens, not %d", stored.key.max_tokens, length)
            return None
        self.progress.report("scoring the reference", 0)
        return accuracy_of_texts(stored.texts, self.held_out, self.verifier)

    def _if_comparable(self, known: Accuracy | None) -> Accuracy | None:
        """What is known, unless it was measured on other problems: the task's file may have changed since."""
        return known if known is not None and known.problem_set == problem_set_digest(self.held_out) else None

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
