"""TS-OPSD: temperature-scaled on-policy self-distillation (arXiv 2606.00755).

    L(theta) = E_x E_{y ~ pi_theta} [ 1/|y| sum_t D( softmax(z(s_t) / tau), pi_theta(. | s_t) ) ]

z are the logits of the present student, without gradient (`live`, as in the paper), or of the policy that the job
started from (`frozen`, a variant of ours). tau > 1 reheats and tau < 1 cools; the code for both is the same.

The paper finds that tau is no dial for how far a policy goes: the stop is. Entropy rises slowly and then jumps within a
step or two, and a policy that trains on runs away. So every step knows the student's entropy, which training computes
anyway, before it changes the weights. Where that promises that the target is reached, the entropy on the probes is
measured. A student that has gone beyond the target is taken back along the way it came, until it is inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from reheatd.errors import BadInputError, EngineError
from reheatd.jobs.contracts import ReheatSpec
from reheatd.json_lines import Messages
from reheatd.measures import EntropyEstimate
from workers.checkpoint import Checkpoints
from workers.losses import chunked_divergence
from workers.optimisation import make_optimizer, optimizer_step
from workers.policy import Policy, TokenBatch, Weights, micro_batches
from workers.progress import Progress
from workers.sampling.recording import Learned
from workers.sampling.rollout import Rollout, Sampler, parent_entropy
from workers.sampling.seeds import seed_for
from workers.shared_prompts import Sequences
from workers.target import Target

TAU = {"live": 1.2, "frozen": 2.0}
"""tau unless it is given. A live teacher's is the paper's. A frozen teacher never gets smoother, and the student
approaches it only asymptotically, so it has to be smoother than the target from the start."""
LEARNING_RATE = {"live": 1e-4, "frozen": 1e-3}
"""Learning rates unless one is given. A live teacher moves on with the student, so it needs a smaller one."""
RISE = 1.5
"""Entropy is measured on the probes whenever it seems to have changed by this factor since the last measurement."""
SPIKE = 10.0
"""It is measured, too, after a gradient this many times as large as at the measurement before: entropy may have jumped
in that step."""
HALVINGS = 6
"""Number of times that the way back into the target is halved, at most."""

CHECKPOINT_STEPS = 4
"""A checkpoint is due after this many steps; a worker that dies loses no more than these."""
TINY = 1e-6


@dataclass(frozen=True)
class ReheatOutcome:
    steps: int
    tau: float
    """Temperature of the teacher."""
    entropy_before: EntropyEstimate
    entropy_after: EntropyEstimate
    stopped: Literal["target", "steps"]


@dataclass(frozen=True)
class Measured:
    """A student that was measured on the probes. All but the first belong to a student short of the target."""

    entropy: EntropyEstimate
    on_rollouts: float | None
    """Its entropy on its rollouts, in nats per token; None until there are any."""
    grad_norm: float | None
    weights: Weights


class Reheater:
    """One TS-OPSD run. It samples rollouts from the served student, trains on them, and stops at the target.

    Args:
        learned: Told of every rollout that is trained on.
    """

    def __init__(
        self,
        policy: Policy,
        spec: ReheatSpec,
        sampler: Sampler,
        prompts: Sequence[Messages],
        progress: Progress,
        checkpoints: Checkpoints | None = None,
        learned: Learned | None = None,
    ) -> None:
        if spec.tau is None and spec.target_entropy is None:
            raise BadInputError("a reheat needs tau or a target entropy; give one of them", param="tau")
        self._policy = policy
        self._spec = spec
        self._sampler = sampler
        self._prompts = prompts
        self._progress = progress
        self._checkpoints = checkpoints
        self._learned = learned
        self._optimizer = make_optimizer(policy.parameters(), spec.learning_rate or LEARNING_RATE[spec.teacher])
        self._tau = spec.tau or TAU[spec.teacher]
        self._upwards = spec.tau is None or spec.tau > 1
        self._target = None if spec.target_entropy is None else Target(spec.target_entropy, self._upwards)
        self._served_step = 0
        """Step of the student that the sampler serves."""
        self._saved_step = 0

    def run(self) -> ReheatOutcome:
        """Trains to the target or the step budget, from the checkpoint if there is one.

        The sampler then serves the final student.

        Raises:
            BadInputError: The policy is beyond the target already. A reheat never cools, and a cooling never heats.
            TrainingDivergedError: A gradient is not finite.
        """
        spec = self._spec
        step, before, last = self._begin()
        rollouts: list[Rollout] = []
        while step < spec.steps and not self._is_inside(last.entropy.mean):
            rollouts = rollouts or self._refresh(step)
            part, rollouts = rollouts[: spec.prompts_per_step], rollouts[spec.prompts_per_step :]
            metrics = self._backward(part)
            if last.on_rollouts is None:
                last = replace(last, on_rollouts=metrics["entropy"], grad_norm=metrics["grad_norm"])
            if self._is_worth_measuring(last, metrics):
                now = self._measure(step, metrics)
                last = self._go_back(last, now, step) if self._is_beyond(now.entropy.mean) else now
                if last is not now or self._is_inside(last.entropy.mean):
                    break
            optimizer_step(self._optimizer, self._policy.parameters(), spec, step)
            step += 1
            self._progress.report("training", step, metrics | {"tau": self._tau})
            if not rollouts and step < spec.steps:
                self._publish(step)
                if step - self._saved_step >= CHECKPOINT_STEPS:
                    self._save(step, before, last)
        else:
            if step and not self._is_inside(last.entropy.mean):
                now = self._measure(step, None)
                last = self._go_back(last, now, step) if self._is_beyond(now.entropy.mean) else now
        stopped = "target" if self._is_inside(last.entropy.mean) else "steps"
        return ReheatOutcome(step, self._tau, before, last.entropy, stopped)

    def _begin(self) -> tuple[int, EntropyEstimate, Measured]:
        """The step to begin with, the parent's entropy and the student that was measured last."""
        loop = self._checkpoints.restore(self._policy, self._optimizer) if self._checkpoints else None
        if loop is None:
            before = parent_entropy(self._spec, self._sampler, self._progress)
            if self._is_beyond(before.mean):
                way, verb = ("below", "cools") if self._upwards else ("above", "heats")
                raise BadInputError(
                    f"target_entropy = {self._spec.target_entropy:.3f} nats per token is {way} the policy's entropy of "
                    f"{before.mean:.3f} [{before.low:.3f}, {before.high:.3f}], but this job never {verb}; choose "
                    f"another target, or a tau {'below' if self._upwards else 'above'} 1",
                    param="target_entropy",
                )
            return 0, before, Measured(before, None, None, self._policy.weights())
        self._saved_step = loop["step"]
        self._publish(loop["step"])
        before, entropy = (EntropyEstimate.model_validate(loop[key]) for key in ("before", "entropy"))
        return loop["step"], before, Measured(entropy, loop["on_rollouts"], loop["grad_norm"], loop["weights"])

    def _save(self, step: int, before: EntropyEstimate, last: Measured) -> None:
        if self._checkpoints:
            loop = {
                "step": step,
                "before": before.model_dump(),
                "entropy": last.entropy.model_dump(),
                "on_rollouts": last.on_rollouts,
                "grad_norm": last.grad_norm,
                "weights": last.weights,
            }
            self._checkpoints.save(self._policy, self._optimizer, loop)
            self._saved_step = step

    def _is_inside(self, entropy: float) -> bool:
        return self._target is not None and self._target.is_inside(entropy)

    def _is_beyond(self, entropy: float) -> bool:
        return self._target is not None and self._target.is_beyond(entropy)

    def _is_worth_measuring(self, last: Measured, metrics: dict[str, float]) -> bool:
        """Whether entropy may have reached the target since it was measured last, or may have jumped."""
        if self._spec.target_entropy is None or last.on_rollouts is None or last.grad_norm is None:
            return False
        change = max(metrics["entropy"], TINY) / max(last.on_rollouts, TINY)
        predicted = last.entropy.mean * change
        moved = change if self._upwards else 1 / change
        spiked = metrics["grad_norm"] > SPIKE * last.grad_norm
        return self._is_inside(predicted) or self._is_beyond(predicted) or moved >= RISE or spiked

    def _measure(self, step: int, metrics: dict[str, float] | None) -> Measured:
        """Measures the present student on the probes."""
        if self._served_step != step:
            self._publish(step)
        entropy = self._probe(step, step)
        on_rollouts, grad_norm = (metrics["entropy"], metrics["grad_norm"]) if metrics else (None, None)
        return Measured(entropy, on_rollouts, grad_norm, self._policy.weights())

    def _probe(self, step: int, seed: int) -> EntropyEstimate:
        def window(number: int) -> EntropyEstimate:
            self._progress.report("measuring", step)
            return self._sampler.measure_entropy(seed_for("probes", self._spec.seed, seed, number))

        entropy = window(0) if self._target is None else self._target.measure(window)
        self._progress.report("measuring", step, {"probe_entropy": entropy.mean})
        return entropy

    def _go_back(self, short: Measured, far: Measured, step: int) -> Measured:
        """Takes the student back between `short` of the target and `far` beyond it, by halving the way.

        Entropy changes continuously along the way, so some student on it is at the target. All are measured with the
        same random numbers, so that they differ by their weights alone.

        Returns:
            A student inside the target or, if none was found, the nearest one short of it. The sampler serves it.
        """
        for number in range(1, HALVINGS + 1):
            middle = [torch.lerp(one, other, 0.5) for one, other in zip(short.weights, far.weights, strict=True)]
            self._policy.set_weights(middle)
            self._publish(step + number)
            found = Measured(self._probe(step, step), None, None, middle)
            if self._is_inside(found.entropy.mean):
                return found
            if self._is_beyond(found.entropy.mean):
                far = found
            else:
                short = found
        self._policy.set_weights(short.weights)
        self._publish(step + HALVINGS + 1)
        return short

    def _publish(self, step: int) -> None:
        self._sampler.publish(self._policy, step)
        self._served_step = step

    def _refresh(self, step: int) -> list[Rollout]:
        """Samples the rollouts of the next `refresh_every` steps, one per prompt."""
        spec = self._spec
        self._progress.report("sampling", step)
        count = spec.prompts_per_step * spec.refresh_every
        start = step * spec.prompts_per_step
        chosen = [self._prompts[(start + i) % len(self._prompts)] for i in range(count)]
        seed = seed_for("prompts", spec.seed, step)
        groups = self._sampler.sample(chosen, n=1, max_tokens=spec.rollout_tokens, temperature=1.0, seed=seed)
        rollouts = [rollout for group in groups for rollout in group]
        if not rollouts:
            raise EngineError(f"{self._sampler.model} sampled no tokens for any of {count} prompts; is it broken?")
        return rollouts

    def _backward(self, rollouts: list[Rollout]) -> dict[str, float]:
        """Computes the gradient of the mean over rollouts of the mean divergence over their tokens.

        Returns:
            The loss, the student's and the teacher's entropy on the rollouts, all in nats per token, and the gradient's
            norm.
        """
        policy, spec = self._policy, self._spec
        totals = {"loss": 0.0, "entropy": 0.0, "teacher_entropy": 0.0}
        tokens = sum(len(rollout.token_ids) for rollout in rollouts)

        def learn(part: _MicroBatch) -> None:
            batch = TokenBatch.build(part.sequences, policy.device)
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
            shares = [1.0 / (len(completion) * len(rollouts)) for _, completion in part.sequences]
            loss = (divergence_T * torch.tensor(shares, device=policy.device)[batch.rows_T]).sum()
            policy.add_gradients(loss)
            totals["loss"] += loss.item()
            totals["entropy"] += float(student_T.sum()) / tokens
            totals["teacher_entropy"] += float(teacher_T.sum()) / tokens
            if self._learned is not None:
                completions = [completion for _, completion in part.sequences]
                for completion, entropy_T in zip(completions, student_T.split([*map(len, completions)]), strict=True):
                    self._learned(completion, entropy_T.tolist)

        sequences = [(rollout.prompt_ids, rollout.token_ids) for rollout in rollouts]
        lengths = [len(prompt) + len(completion) for prompt, completion in sequences]
        groups = micro_batches(lengths, policy.micro_batch_tokens)
        policy.memory.run([_MicroBatch([sequences[i] for i in indices]) for indices in groups], learn)
        gradients = [weight.grad for weight in policy.parameters() if weight.grad is not None]
        return totals | {"grad_norm": float(torch.nn.utils.get_total_norm(gradients))}


@dataclass(frozen=True)
class _MicroBatch:
    sequences: Sequences

    def halves(self) -> "tuple[_MicroBatch, _MicroBatch]":
        middle = len(self.sequences) // 2
        return _MicroBatch(self.sequences[:middle]), _MicroBatch(self.sequences[middle:])
