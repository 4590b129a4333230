"""Continued RL: group-relative policy gradient with verifiable rewards.

This is GRPO (arXiv 2402.03300) with these additions:

- token-level normalisation, an asymmetric clip and dynamic sampling (DAPO, arXiv 2503.14476);
- advantages that are not divided by the standard deviation unless asked for, and normalisation by a constant as an
  option (Dr. GRPO, arXiv 2503.20783);
- an entropy bonus, as an option, that also acts on groups whose rewards are all equal and can lead to a target;
- truncated importance sampling between the sampler's and the trainer's log-probabilities, which differ because the two
  run different kernels.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reheatd.jobs.contracts import DataPlace, RLSpec
from reheatd.jobs.rollouts import RolloutRecorder
from reheatd.measures import Contract, EntropyEstimate
from reheatd.task_data import Problem
from workers.adam_moments import load_moments, save_moments
from workers.checkpoint import Checkpoints
from workers.policy import Policy
from workers.progress import Progress
from workers.rewards.scoring import Scorer
from workers.rl_learner import Learner
from workers.sampling.group_counts import Drought
from workers.sampling.groups import GroupCollector
from workers.sampling.rollout import Sampler, parent_entropy
from workers.sampling.seeds import seed_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RLOutcome:
    steps: int
    updates: int
    """Optimiser steps that were taken; 0 leaves the policy as it was."""
    place: DataPlace
    """Where the run stopped in its problems."""
    entropy_before: EntropyEstimate
    entropy_after: EntropyEstimate
    stopped: Literal["steps", "no_signal"]
    why_stopped: str | None
    """With `no_signal`, one line about the groups of the last steps."""


class Loop(Contract):
    """Where a run is between two steps."""

    before: EntropyEstimate
    """The parent's entropy."""
    place: DataPlace
    first_update: int
    """Optimiser steps of earlier jobs, with whose moments this job began."""
    updates: int
    """Optimiser steps of these jobs and of this one."""
    step: int = 0
    noops: int = 0
    """Steps in which no reward gave anything to learn from."""
    drought: Drought = Drought()


class Grpo:
    """One run of continued RL. Each step samples groups, scores them, learns from them and publishes the student."""

    def __init__(
        self,
        policy: Policy,
        spec: RLSpec,
        sampler: Sampler,
        problems: Sequence[Problem],
        scorer: Scorer,
        progress: Progress,
        checkpoints: Checkpoints | None = None,
        recorder: RolloutRecorder | None = None,
    ) -> None:
        self._policy = policy
        self._spec = spec
        self._sampler = sampler
        self._groups = GroupCollector(spec, sampler, problems, scorer, progress, recorder)
        self._learner = Learner(policy, spec)
        self._progress = progress
        self._checkpoints = checkpoints

    def run(self) -> RLOutcome:
        """Takes all steps, or those after the checkpoint if there is one; the sampler then serves the final student.

        The run ends early if no group varied in `patience` steps in a row, unless an entropy bonus learns all the
        same.
        """
        spec, loop = self._spec, self._resume()
        while loop.step < spec.steps and not self._is_idle(loop):
            batch = self._groups.collect(loop.step)
            metrics = batch.metrics
            loop.step += 1
            if batch.scored:
                metrics |= self._learner.learn(batch.scored)
                self._sampler.publish(self._policy, loop.step)
            loop.noops += all(item.advantage is None for item in batch.scored)
            loop.drought = loop.drought.after(batch.counts)
            loop.place, loop.updates = self._groups.order.place, self._learner.updates
            if self._checkpoints:
                self._checkpoints.save(self._policy, self._learner.optimizer, loop.model_dump())
            self._progress.report("training", loop.step, metrics | {"noop_steps": float(loop.noops)})
        return self._outcome(loop)

    def _is_idle(self, loop: Loop) -> bool:
        """Whether the run has learned nothing for so long that it ends."""
        return not self._spec.entropy_bonus and loop.drought.steps >= self._spec.patience

    def _outcome(self, loop: Loop) -> RLOutcome:
        spec = self._spec
        why_stopped = str(loop.drought) if self._is_idle(loop) else None
        if why_stopped:
            logger.warning("%s stops at step %d: %s", spec.job_id, loop.step, why_stopped)
        self._progress.report("measuring", loop.step)
        return RLOutcome(
            steps=loop.step,
            updates=loop.updates - loop.first_update,
            place=loop.place,
            entropy_before=loop.before,
            entropy_after=self._sampler.measure_entropy(seed_for("probes", spec.seed, spec.steps)),
            stopped="no_signal" if why_stopped else "steps",
            why_stopped=why_stopped,
        )

    def save_optimizer(self, folder: Path) -> None:
        """Writes Adam's moments beside the student's adapter in `folder`, for the next job of RL."""
        save_moments(folder, self._policy, self._learner.optimizer)

    def _resume(self) -> Loop:
        """The loop as the checkpoint has it; without one, the beginning, with the moments of the job before."""
        optimizer, order = self._learner.optimizer, self._groups.order
        saved = self._checkpoints.restore(self._policy, optimizer) if self._checkpoints else None
        if saved is not None:
            loop = Loop.model_validate(saved)
            self._learner.updates, order.place = loop.updates, loop.place
            self._sampler.publish(self._policy, loop.step)
            return loop
        if self._spec.parent_adapter is not None:
            self._learner.updates = load_moments(self._spec.parent_adapter, self._policy, optimizer)
        before = parent_entropy(self._spec, self._sampler, self._progress)
        updates = self._learner.updates
        return Loop(before=before, place=order.place, first_update=updates, updates=updates)
