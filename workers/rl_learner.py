"""What continued RL learns from one batch of scored rollouts: one optimiser step or several."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reheatd.jobs.contracts import RLSpec
from workers.losses import chunked_logprobs
from workers.optimisation import make_optimizer, optimizer_step
from workers.policy import Policy, TokenBatch
from workers.policy_gradient import clipped_surrogate, reference_kl
from workers.sampling.groups import ScoredRollout
from workers.sampling.recording import Learned
from workers.shared_prompts import Sequences


@dataclass(frozen=True)
class OldPolicy:
    """The trainer's policy on a micro-batch, before the first update on the whole batch."""

    logprobs_T: Tensor
    """The trainer's log-probabilities at the sampling temperature."""
    importance_T: Tensor
    """Truncated ratio of trainer to sampler at temperature 1. With stale rollouts, the sampler had the policy of a step
    before, and the ratio corrects for that as well (decoupled PPO, arXiv 2505.24298)."""
    gap_T: Tensor
    """The trainer's log-probability minus the sampler's, at temperature 1."""
    entropy_T: Tensor
    """Entropy at temperature 1, whatever the rollouts were sampled at."""
    reference_T: Tensor | None
    """The parent's log-probabilities at the sampling temperature; None without a KL term."""

    def part(self, tokens: slice) -> "OldPolicy":
        """The same on some of the tokens."""
        return OldPolicy(
            logprobs_T=self.logprobs_T[tokens],
            importance_T=self.importance_T[tokens],
            gap_T=self.gap_T[tokens],
            entropy_T=self.entropy_T[tokens],
            reference_T=None if self.reference_T is None else self.reference_T[tokens],
        )


@dataclass
class MicroBatch:
    """Rollouts of about equal length that go through the model together."""

    scored: list[ScoredRollout]
    tokens: TokenBatch
    old: OldPolicy | None = None
    """None until the old policy has been computed on it."""

    @classmethod
    def build(cls, scored: list[ScoredRollout], device: torch.device, old: OldPolicy | None = None) -> "MicroBatch":
        pairs = [(item.rollout.prompt_ids, item.rollout.token_ids) for item in scored]
        return cls(scored, TokenBatch.build(pairs, device), old)

    @property
    def sequences(self) -> Sequences:
        return self.tokens.sequences

    def halves(self) -> "tuple[MicroBatch, MicroBatch]":
        middle = len(self.scored) // 2
        first, device = sum(len(item.rollout.token_ids) for item in self.scored[:middle]), self.tokens.rows_T.device
        olds = (None, None) if self.old is None else (self.old.part(slice(first)), self.old.part(slice(first, None)))
        return (
            MicroBatch.build(self.scored[:middle], device, olds[0]),
            MicroBatch.build(self.scored[middle:], device, olds[1]),
        )


class Learner:
    """Takes the optimiser steps of continued RL.

    A batch is split into `minibatches`, and is learned from in `epochs` passes; each mini-batch is one optimiser step.
    From the second step on, the policy is no longer the one before the first step, which is what the clip is for.

    Args:
        learned: Told of every rollout before the first step on it.
    """

    def __init__(self, policy: Policy, spec: RLSpec, learned: Learned | None = None) -> None:
        self.optimizer = make_optimizer(policy.parameters(), spec.learning_rate)
        self.updates = 0
        """Optimiser steps taken so far, those of earlier jobs included whose moments this optimiser has."""
        self._policy = policy
        self._spec = spec
        self._learned = learned

    def learn(self, scored: Sequence[ScoredRollout]) -> dict[str, float]:
        """Learns from a batch, and returns the means of the metrics over its optimiser steps."""
        parts = [self._micro_batches(part) for part in split(scored, self._spec.minibatches)]
        # The pass of the first optimiser step computes the old policy on its own mini-batch.
        for part in parts[1:]:
            self._policy.memory.run(part, self._compute_old)
        updates = [self._update(part) for _ in range(self._spec.epochs) for part in parts]
        return {name: statistics.fmean(update[name] for update in updates) for name in updates[0]}

    def _micro_batches(self, scored: Sequence[ScoredRollout]) -> list[MicroBatch]:
        policy = self._policy
        pairs = [(item.rollout.prompt_ids, item.rollout.token_ids) for item in scored]
        groups = policy.micro_batches(pairs)
        return [MicroBatch.build([scored[i] for i in indices], policy.device) for indices in groups]

    def _compute_old(self, micro: MicroBatch) -> None:
        with torch.no_grad():
            hidden_TD = self._policy.hidden(micro.tokens)
            micro.old = self._old_policy(micro, hidden_TD, *self._logprobs(micro, hidden_TD))

    def _update(self, part: list[MicroBatch]) -> dict[str, float]:
        """Takes one optimiser step on a mini-batch."""
        policy, spec = self._policy, self._spec
        tokens = sum(len(micro.tokens.targets_T) for micro in part)
        scored = [item for micro in part for item in micro.scored]
        # Rollouts that only the bonus learns from do not dilute what the others teach.
        rewarded = max(1, self._divisor([item for item in scored if item.advantage is not None]))
        bonus = self._bonus(scored)
        totals = {"loss": 0.0, "entropy": 0.0, "logprob_gap": 0.0, "clip_fraction": 0.0, "importance_capped": 0.0}
        if spec.temperature != 1.0:
            totals["entropy_sampled"] = 0.0
        if spec.kl_coef:
            totals["kl"] = 0.0
        if spec.entropy_bonus:
            totals["entropy_bonus"] = bonus

        def learn(micro: MicroBatch) -> None:
            hidden_TD = policy.hidden(micro.tokens)
            logprobs_T, entropy_T = self._logprobs(micro, hidden_TD)
            if micro.old is None:
                micro.old = self._old_policy(micro, hidden_TD.detach(), logprobs_T.detach(), entropy_T.detach())
            old = micro.old
            advantages = torch.tensor([item.advantage or 0.0 for item in micro.scored], device=policy.device)
            loss_T, clipped_T = clipped_surrogate(
                logprobs_T,
                old.logprobs_T,
                advantages[micro.tokens.rows_T],
                old.importance_T,
                clip_low=spec.clip_low,
                clip_high=spec.clip_high,
            )
            loss = loss_T.sum() / rewarded
            kl_T = None
            if old.reference_T is not None:
                kl_T = reference_kl(logprobs_T, old.logprobs_T, old.reference_T)
                if spec.staleness:  # otherwise the policy before the step is the one that sampled
                    kl_T = old.importance_T * kl_T
                loss = loss + spec.kl_coef * kl_T.sum() / self._divisor(scored)
            if bonus:
                loss = loss - bonus * entropy_T.sum() / self._divisor(scored)
            policy.add_gradients(loss)
            if kl_T is not None:
                totals["kl"] += float(kl_T.detach().sum()) / tokens
            totals["loss"] += loss.item()
            totals["entropy"] += float(old.entropy_T.sum()) / tokens
            if spec.temperature != 1.0:
                totals["entropy_sampled"] += float(entropy_T.detach().sum()) / tokens
            totals["clip_fraction"] += float(clipped_T.sum()) / tokens
            totals["logprob_gap"] += float(old.gap_T.abs().sum()) / tokens
            totals["importance_capped"] += float((old.importance_T >= spec.importance_cap).sum()) / tokens

        policy.memory.run(part, learn)
        totals["grad_norm"] = optimizer_step(self.optimizer, policy.parameters(), spec, self.updates)
        self.updates += 1
        return totals

    def _divisor(self, scored: Sequence[ScoredRollout]) -> int:
        """What a sum over these rollouts' tokens is divided by."""
        if self._spec.normalisation == "constant":
            return len(scored) * self._spec.rollout_tokens
        return sum(len(item.rollout.token_ids) for item in scored)

    def _bonus(self, scored: Sequence[ScoredRollout]) -> float:
        """Weight of the entropy bonus on a mini-batch.

        Without a target it is constant. With one, it falls in proportion to the share of the target that is missing.
        How much is missing is estimated from the log-probabilities that the rollouts were sampled with.
        """
        spec = self._spec
        if spec.bonus_target is None:
            return spec.entropy_bonus
        logprobs = [value for item in scored for value in item.rollout.logprobs]
        return spec.entropy_bonus * max(0.0, 1 + statistics.fmean(logprobs) / spec.bonus_target)

    def _logprobs(self, micro: MicroBatch, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of every completion token and entropy of its state at the sampling temperature, [T] each."""
        head_VD, targets_T = self._policy.head_VD, micro.tokens.targets_T
        return chunked_logprobs(hidden_TD, head_VD, targets_T, temperature=self._spec.temperature)

    def _old_policy(self, micro: MicroBatch, hidden_TD: Tensor, logprobs_T: Tensor, entropy_T: Tensor) -> OldPolicy:
        policy, spec = self._policy, self._spec
        raw_T = logprobs_T
        if spec.temperature != 1.0:  # the sampler's log-probabilities are those of temperature 1
            raw_T, entropy_T = chunked_logprobs(hidden_TD, policy.head_VD, micro.tokens.targets_T)
        sampled = [value for item in micro.scored for value in item.rollout.logprobs]
        gap_T = raw_T - torch.tensor(sampled, device=policy.device)
        reference_T = None
        if spec.kl_coef:
            with policy.as_teacher():
                reference_T, _ = self._logprobs(micro, policy.hidden(micro.tokens))
        if self._learned is not None:
            lengths = [len(item.rollout.token_ids) for item in micro.scored]
            for item, part in zip(micro.scored, entropy_T.split(lengths), strict=True):
                self._learned(item.rollout.token_ids, part.tolist)
        return OldPolicy(logprobs_T, gap_T.exp().clamp(max=spec.importance_cap), gap_T, entropy_T, reference_T)


def split(scored: Sequence[ScoredRollout], count: int) -> list[Sequence[ScoredRollout]]:
    """Splits rollouts into `count` parts of about equal size, in order; fewer if there are not enough rollouts."""
    count = min(count, len(scored))
    edges = [len(scored) * part // count for part in range(count + 1)]
    return [scored[first:last] for first, last in itertools.pairwise(edges)]
