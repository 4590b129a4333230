"""Continued RL: group-relative policy gradient with verifiable rewards.

This is GRPO (arXiv 2402.03300) with these additions:

- token-level normalisation, an asymmetric clip and dynamic sampling (DAPO, arXiv 2503.14476);
- advantages that are not divided by the standard deviation unless asked for, and normalisation by a constant as an
  option (Dr. GRPO, arXiv 2503.20783);
- an entropy bonus, as an option, that also acts on groups whose rewards are all equal and can lead to a target;
- truncated importance sampling between the sampler's and the trainer's log-probabilities, which differ because the two
  run different kernels;
- rollouts that are one step old, as an option. A step then learns from rollouts of the policy before the last step,
  while the engine samples those of the next. The same weights correct for their age: this is the decoupled objective
  of AReaL (arXiv 2505.24298), in which the clip is against the policy before the step.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reheatd.jobs.contracts import DataPlace, RLSpec
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
from workers.sampling.groups_ahead import GroupsAhead
from workers.sampling.recording import Recording
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
        recording: Recording | None = None,
    ) -> None:
        self._policy = policy
        self._spec = spec
        self._sampler = sampler
        self._groups = GroupCollector(spec, sampler, problems, scorer, progress, recording)
        self._learner = Learner(policy, spec, recording and recording.learned)
        self._progress = progress
        self._checkpoints = checkpoints
        self._published_updates = 0
        """Optimiser steps of the student that is sampled from."""

    def run(self) -> RLOutcome:
        """Takes all steps, or those after the checkpoint if there is one; the sampler then serves the final student.

        The run ends early if no group varied in `patience` steps in a row, unless an entropy bonus learns all the
        same.
        """
        loop = self._resume()
        with GroupsAhead(self._groups, self._sampler, self._progress) as batches:
            while not self._is_over(loop):
                self._step(loop, batches)
        self._publish(loop.step)
        return self._outcome(loop)

    def _step(self, loop: Loop, batches: GroupsAhead) -> None:
        batch = batches.take(loop.step)
        metrics, is_stale = batch.metrics, self._spec.staleness > 0
        loop.step += 1
        loop.noops += all(item.advantage is None for item in batch.scored)
        loop.drought = loop.drought.after(batch.counts)
        loop.place = batch.place
        if is_stale and not self._is_over(loop):
            # Nothing is being sampled now. The next rollouts come from the student as it is before this step.
            self._publish(loop.step - 1)
            batches.begin(loop.step)
        if batch.scored:
            metrics |= self._learner.learn(batch.scored)
        if not is_stale:
            self._publish(loop.step)
        loop.updates = self._learner.updates
        if self._checkpoints:
            self._checkpoints.save(self._policy, self._learner.optimizer, loop.model_dump())
        self._progress.report("training", loop.step, metrics | {"noop_steps": float(loop.noops)})

    def _publish(self, step: int) -> None:
        """Has the student sampled from that `step` steps made, unless it is already."""
        if self._published_updates != self._learner.updates:
            self._sampler.publish(self._policy, step)
            self._published_updates = self._learner.updates

    def _is_over(self, loop: Loop) -> bool:
        return loop.step >= self._spec.steps or self._is_idle(loop)

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
            self._published_updates = loop.updates
            return loop
        if self._spec.parent_adapter is not None:
            self._learner.updates = load_moments(self._spec.parent_adapter, self._policy, optimizer)
        before = parent_entropy(self._spec, self._sampler, self._progress)
        self._published_updates = updates = self._learner.updates
        return Loop(before=before, place=order.place, first_update=updates, updates=updates)
