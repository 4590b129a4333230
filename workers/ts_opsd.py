"""TS-OPSD: temperature-scaled on-policy self-distillation (arXiv 2606.00755).

    L(theta) = E_x E_{y ~ pi_theta} [ 1/|y| sum_t D( softmax(z_c(s_t) / tau), pi_theta(. | s_t) ) ]

z_c are the logits of the policy that the job started from (`frozen`) or of the student itself (`live`). tau > 1 reheats
and tau < 1 cools; the code for both is the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from reheatd.errors import BadInputError, EngineError
from reheatd.jobs.contracts import ReheatSpec
from reheatd.measures import EntropyEstimate
from workers.checkpoint import Checkpoints
from workers.losses import chunked_divergence, entropy, find_tau, logprobs_of_states
from workers.optimisation import make_optimizer, optimizer_step
from workers.policy import Policy, TokenBatch, micro_batches
from workers.progress import Progress
from workers.sampling.rollout import Rollout, Sampler, parent_entropy
from workers.task_data import Messages

BISECTION_STATES = 192
"""Number of states whose full distributions are in memory while tau is searched."""
TEACHER_REACH = 1.25
"""Factor beyond the target that the teacher aims at first (1 / reach when cooling). The student approaches the teacher
only asymptotically, so it would never reach a teacher exactly at the target."""
AIM_GAIN = 0.5
"""After every measurement, the teacher's aim is multiplied by (target / measured) ** AIM_GAIN."""
MAX_AIM = 2.0
"""The aim stays within this factor of the target, in both directions."""
SLACK = 0.03
"""The target counts as reached this share of it early, which is less than the probe estimate's own standard error."""
OVERSHOOT = 0.1
"""If entropy is beyond the target by more than this share of it, training continues, back towards the target. A tau
that the user chose would only lead further away, so with such a tau training stops."""


@dataclass(frozen=True)
class ReheatOutcome:
    steps: int
    tau: float
    entropy_before: EntropyEstimate
    entropy_after: EntropyEstimate
    stopped: Literal["target", "ceiling", "steps"]


class Reheater:
    """One TS-OPSD run. It samples rollouts from the served student, trains on them, and stops at the target."""

    def __init__(
        self,
        policy: Policy,
        spec: ReheatSpec,
        sampler: Sampler,
        prompts: Sequence[Messages],
        progress: Progress,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        if spec.tau is None and spec.target_entropy is None:
            raise BadInputError("a reheat needs tau or a target entropy; give one of them", param="tau")
        self._policy = policy
        self._spec = spec
        self._sampler = sampler
        self._prompts = prompts
        self._progress = progress
        self._checkpoints = checkpoints
        self._optimizer = make_optimizer(policy.parameters(), spec.learning_rate)
        self._tau = spec.tau or 1.0
        self._goal = spec.max_entropy if spec.target_entropy is None else spec.target_entropy
        """Probe entropy at which the run stops, in nats per token; None if it takes all its steps."""
        self._aim = 0.0
        """Probe entropy that the teacher aims at when tau is searched, in nats per token."""

    def run(self) -> ReheatOutcome:
        """Trains to the target or the step budget, from the checkpoint if there is one.

        The sampler then serves the final student.
        """
        spec = self._spec
        step, before, measured = self._resume()
        rollouts: list[Rollout] = []
        at_measurement: float | None = None
        while step < spec.steps and not self._reached(before.mean, measured.mean):
            if not rollouts:
                rollouts = self._refresh(step)
            if at_measurement is None and self._corrects_tau:
                self._correct_tau(rollouts, measured, step)
            part, rollouts = rollouts[: spec.prompts_per_step], rollouts[spec.prompts_per_step :]
            metrics = self._train_step(part, step)
            step += 1
            self._progress.report("training", step, metrics | {"tau": self._tau})
            # The probe entropy is predicted from the student's entropy relative to the teacher's on the same states:
            # now, and when it was measured. A prediction at the target or across it is worth a measurement. A live
            # teacher moves with the student, so beside it the entropies on different states are compared.
            yardstick = metrics["teacher_entropy"] if spec.teacher == "frozen" else 1.0
            relative = max(metrics["entropy"], 1e-3) / max(yardstick, 1e-3)
            at_measurement = at_measurement or relative
            predicted = measured.mean * relative / at_measurement
            crossed = self._passed(before.mean, predicted) != self._passed(before.mean, measured.mean)
            if rollouts and step < spec.steps and not crossed and not self._reached(before.mean, predicted):
                continue
            self._sampler.publish(self._policy, step)
            self._progress.report("measuring", step)
            measured = self._sampler.measure_entropy(spec.seed + step)
            self._progress.report("measuring", step, {"probe_entropy": measured.mean})
            self._correct_aim(before, measured)
            at_measurement = None
            # A checkpoint holds no rollouts, so a resumed job begins with a refresh.
            if not rollouts or self._reached(before.mean, measured.mean):
                self._save(step, before, measured)
        stop = "ceiling" if spec.target_entropy is None else "target"
        reached = self._reached(before.mean, measured.mean)
        return ReheatOutcome(step, self._tau, before, measured, stop if reached else "steps")

    def _resume(self) -> tuple[int, EntropyEstimate, EntropyEstimate]:
        """The step to begin with, the parent's entropy and the student's entropy."""
        loop = self._checkpoints.restore(self._policy, self._optimizer) if self._checkpoints else None
        if loop is None:
            before = parent_entropy(self._spec, self._sampler, self._progress)
            if self._goal is not None:
                self._aim = self._goal * (TEACHER_REACH if self._goal >= before.mean else 1 / TEACHER_REACH)
            return 0, before, before
        self._tau, self._aim = loop["tau"], loop["aim"]
        self._sampler.publish(self._policy, loop["step"])
        before, measured = (EntropyEstimate.model_validate(loop[key]) for key in ("before", "measured"))
        return loop["step"], before, measured

    def _save(self, step: int, before: EntropyEstimate, measured: EntropyEstimate) -> None:
        if self._checkpoints:
            loop = {
                "step": step,
                "before": before.model_dump(),
                "measured": measured.model_dump(),
                "tau": self._tau,
                "aim": self._aim,
            }
            self._checkpoints.save(self._policy, self._optimizer, loop)

    @property
    def _corrects_tau(self) -> bool:
        """Whether tau is corrected towards the goal.

        A tau that is given with a target is kept as the user chose it. A tau that is given with a ceiling is a maximum.
        """
        return self._spec.tau is None or (self._spec.target_entropy is None and self._goal is not None)

    def _passed(self, before: float, now: float) -> bool:
        """Whether entropy has moved from `before` as far as the goal, less the slack."""
        target = self._goal
        if target is None:
            return False
        return now >= target * (1 - SLACK) if target >= before else now <= target * (1 + SLACK)

    def _reached(self, before: float, now: float) -> bool:
        """Whether entropy has passed the goal and, if tau is corrected, is not far beyond it."""
        target = self._goal
        if target is None or not self._passed(before, now):
            return False
        if not self._corrects_tau:
            return True
        return now <= target * (1 + OVERSHOOT) if target >= before else now >= target * (1 - OVERSHOOT)

    def _refresh(self, step: int) -> list[Rollout]:
        """Samples the rollouts of the next `refresh_every` steps, one per prompt."""
        spec = self._spec
        self._progress.report("sampling", step)
        count = spec.prompts_per_step * spec.refresh_every
        start = step * spec.prompts_per_step
        chosen = [self._prompts[(start + i) % len(self._prompts)] for i in range(count)]
        groups = self._sampler.sample(chosen, n=1, max_tokens=spec.max_tokens, temperature=1.0, seed=spec.seed + step)
        rollouts = [rollout for group in groups for rollout in group]
        if not rollouts:
            raise EngineError(f"{self._sampler.model} sampled no tokens for any of {count} prompts; is it broken?")
        return rollouts

    def _correct_aim(self, before: EntropyEstimate, measured: EntropyEstimate) -> None:
        """Corrects the teacher's aim after a measurement.

        This is integral control, because how closely the student follows the teacher depends on the policy, the LoRA
        and the learning rate.
        """
        target = self._goal
        if target is None:
            return
        aim = self._aim * (target / max(measured.mean, 1e-3)) ** AIM_GAIN
        self._aim = min(target * MAX_AIM, max(target / MAX_AIM, aim))
        if self._passed(before.mean, measured.mean):
            # The student follows as far as it should. An aim beyond the target would keep it beyond.
            self._aim = min(self._aim, target) if target >= before.mean else max(self._aim, target)

    def _correct_tau(self, rollouts: list[Rollout], measured: EntropyEstimate, step: int) -> None:
        """Moves tau half of the way to the temperature at which the teacher's entropy is what it aims at now.

        The student's states move along with its entropy. The whole way, which is found on the states of now, would
        swing past the target and back.
        """
        found = self._search_tau(rollouts, measured)
        self._tau = min(self._spec.tau or math.inf, found if step == 0 else math.sqrt(self._tau * found))

    def _search_tau(self, rollouts: list[Rollout], measured: EntropyEstimate) -> float:
        """The temperature at which the teacher's entropy on these rollouts is what it aims at.

        The training prompts are not the probes, so the aim is scaled by the ratio of the student's entropies on both.
        """
        batch = _batch(rollouts[: self._spec.prompts_per_step], self._policy.device)
        with torch.no_grad():
            student = self._policy.hidden(batch)
        student_entropy = float(entropy(logprobs_of_states(student, self._policy.head_VD, BISECTION_STATES)).mean())
        if self._spec.teacher == "frozen":
            with self._policy.as_teacher():
                states = self._policy.hidden(batch)
        else:
            states = student
        logprobs_TV = logprobs_of_states(states, self._policy.head_VD, BISECTION_STATES)
        prompts_to_probes = min(2.0, max(0.5, student_entropy / max(measured.mean, 1e-3)))
        return find_tau(logprobs_TV, self._aim * prompts_to_probes, min_p=self._spec.min_p)

    def _train_step(self, rollouts: list[Rollout], step: int) -> dict[str, float]:
        """Takes one optimiser step on the mean over rollouts of the mean divergence over their tokens."""
        policy, spec = self._policy, self._spec
        totals = {"loss": 0.0, "entropy": 0.0, "teacher_entropy": 0.0}
        tokens = sum(len(rollout.token_ids) for rollout in rollouts)
        lengths = [len(rollout.prompt_ids) + len(rollout.token_ids) for rollout in rollouts]
        for indices in micro_batches(lengths, policy.micro_batch_tokens):
            part = [rollouts[i] for i in indices]
            batch = _batch(part, policy.device)
            teacher_TD = None
            if spec.teacher == "frozen":
                with policy.as_teacher():
                    teacher_TD = policy.hidden(batch)
            divergence_T, student_T, teacher_T = chunked_divergence(
                policy.hidden(batch),
                policy.head_VD,
                tau=self._tau,
                kind=spec.divergence,
                teacher_TD=teacher_TD,
                min_p=spec.min_p,
            )
            per_sequence = torch.tensor([1.0 / (len(r.token_ids) * len(rollouts)) for r in part], device=policy.device)
            loss = (divergence_T * per_sequence[batch.rows_T]).sum()
            loss.backward()
            totals["loss"] += loss.item()
            totals["entropy"] += float(student_T.sum()) / tokens
            totals["teacher_entropy"] += float(teacher_T.sum()) / tokens
        grad_norm = optimizer_step(self._optimizer, policy.parameters(), spec, step)
        return totals | {"grad_norm": grad_norm}


def _batch(rollouts: Sequence[Rollout], device: torch.device) -> TokenBatch:
    return TokenBatch.build([(rollout.prompt_ids, rollout.token_ids) for rollout in rollouts], device)
