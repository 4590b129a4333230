"""Continued RL: group-relative policy gradient with verifiable rewards.

This is GRPO (arXiv 2402.03300) with these additions:

- token-level normalisation, an asymmetric clip and dynamic sampling (DAPO, arXiv 2503.14476);
- advantages that are not divided by the standard deviation unless asked for, and normalisation by a constant as an
  option (Dr. GRPO, arXiv 2503.20783);
- truncated importance sampling between the sampler's and the trainer's log-probabilities, which differ because the two
  run different kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reheatd.jobs.contracts import RLSpec
from reheatd.jobs.rollouts import RolloutRecorder
from reheatd.measures import EntropyEstimate
from reheatd.task_data import Problem
from workers.checkpoint import Checkpoints
from workers.losses import chunked_logprobs
from workers.optimisation import make_optimizer, optimizer_step
from workers.policy import Policy, TokenBatch, micro_batches
from workers.policy_gradient import clipped_surrogate, reference_kl
from workers.progress import Progress
from workers.rewards.scoring import Scorer
from workers.sampling.groups import GroupCollector, ScoredRollout
from workers.sampling.rollout import Sampler, parent_entropy


@dataclass(frozen=True)
class OldPolicy:
    """The trainer's policy on a micro-batch, before the first update on it."""

    logprobs_T: Tensor
    """The trainer's log-probabilities at the sampling temperature."""
    importance_T: Tensor
    """Truncated ratio of trainer to sampler at temperature 1."""
    gap_T: Tensor
    """The trainer's log-probability minus the sampler's, at temperature 1."""
    entropy_T: Tensor
    """Entropy at temperature 1, whatever the rollouts were sampled at."""
    reference_T: Tensor | None
    """The parent's log-probabilities at the sampling temperature; None without a KL term."""


@dataclass(frozen=True)
class RLOutcome:
    steps: int
    entropy_before: EntropyEstimate
    entropy_after: EntropyEstimate


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
        self._progress = progress
        self._checkpoints = checkpoints
        self._optimizer = make_optimizer(policy.parameters(), spec.learning_rate)
        self._updates = 0

    def run(self) -> RLOutcome:
        """Takes all steps, or those after the checkpoint if there is one; the sampler then serves the final student."""
        spec = self._spec
        first, noops, before = self._resume()
        for step in range(first, spec.steps):
            batch = self._groups.collect(step)
            metrics = batch.metrics
            if batch.scored:
                metrics |= self._learn(batch.scored)
                self._sampler.publish(self._policy, step + 1)
            else:
                noops += 1
            self._save(step + 1, noops, before)
            metrics["noop_steps"] = float(noops)
            self._progress.report("training", step + 1, metrics)
        self._progress.report("measuring", spec.steps)
        after = self._sampler.measure_entropy(spec.seed + spec.steps)
        return RLOutcome(spec.steps, before, after)

    def _resume(self) -> tuple[int, int, EntropyEstimate]:
        """The step to begin with, the number of steps without a group to learn from, and the parent's entropy."""
        loop = self._checkpoints.restore(self._policy, self._optimizer) if self._checkpoints else None
        if loop is None:
            return 0, 0, parent_entropy(self._spec, self._sampler, self._progress)
        self._updates, self._groups.drawn = loop["updates"], loop["drawn"]
        self._sampler.publish(self._policy, loop["step"])
        return loop["step"], loop["noops"], EntropyEstimate.model_validate(loop["before"])

    def _save(self, step: int, noops: int, before: EntropyEstimate) -> None:
        if self._checkpoints:
            loop = {
                "step": step,
                "noops": noops,
                "before": before.model_dump(),
                "updates": self._updates,
                "drawn": self._groups.drawn,
            }
            self._checkpoints.save(self._policy, self._optimizer, loop)

    def _learn(self, scored: list[ScoredRollout]) -> dict[str, float]:
        """Takes `epochs` optimiser steps on one batch of rollouts."""
        old: dict[int, OldPolicy] = {}
        metrics: dict[str, float] = {}
        for _ in range(self._spec.epochs):
            metrics = self._update(scored, old)
        return metrics

    def _update(self, scored: list[ScoredRollout], old: dict[int, OldPolicy]) -> dict[str, float]:
        """Takes one optimiser step.

        Args:
            old: What stays the same between the steps on one batch, by micro-batch; the first step fills it.
        """
        policy, spec = self._policy, self._spec
        tokens = sum(len(item.rollout.token_ids) for item in scored)
        denominator = tokens if spec.normalisation == "tokens" else len(scored) * spec.max_tokens
        totals = {"loss": 0.0, "entropy": 0.0, "logprob_gap": 0.0, "clip_fraction": 0.0, "importance_capped": 0.0}
        if spec.temperature != 1.0:
            totals["entropy_sampled"] = 0.0
        if spec.kl_coef:
            totals["kl"] = 0.0
        lengths = [len(item.rollout.prompt_ids) + len(item.rollout.token_ids) for item in scored]
        for number, indices in enumerate(micro_batches(lengths, policy.micro_batch_tokens)):
            part = [scored[i] for i in indices]
            batch = TokenBatch.build([(i.rollout.prompt_ids, i.rollout.token_ids) for i in part], policy.device)
            hidden_TD = policy.hidden(batch)
            logprobs_T, entropy_T = chunked_logprobs(
                hidden_TD, policy.head_VD, batch.targets_T, temperature=spec.temperature
            )
            if number not in old:
                old[number] = self._old_policy(part, batch, hidden_TD.detach(), logprobs_T.detach(), entropy_T.detach())
            before = old[number]
            advantages = torch.tensor([i.advantage for i in part], device=policy.device)
            loss_T, clipped_T = clipped_surrogate(
                logprobs_T,
                before.logprobs_T,
                advantages[batch.rows_T],
                before.importance_T,
                clip_low=spec.clip_low,
                clip_high=spec.clip_high,
            )
            if before.reference_T is not None:
                kl_T = reference_kl(logprobs_T, before.logprobs_T, before.reference_T)
                loss_T = loss_T + spec.kl_coef * kl_T
                totals["kl"] += float(kl_T.detach().sum()) / tokens
            loss = loss_T.sum() / denominator
            loss.backward()
            totals["loss"] += loss.item()
            totals["entropy"] += float(before.entropy_T.sum()) / tokens
            if spec.temperature != 1.0:
                totals["entropy_sampled"] += float(entropy_T.detach().sum()) / tokens
            totals["clip_fraction"] += float(clipped_T.sum()) / tokens
            totals["logprob_gap"] += float(before.gap_T.abs().sum()) / tokens
            totals["importance_capped"] += float((before.importance_T >= spec.importance_cap).sum()) / tokens
        totals["grad_norm"] = optimizer_step(self._optimizer, policy.parameters(), spec, self._updates)
        self._updates += 1
        return totals

    def _old_policy(
        self,
        part: Sequence[ScoredRollout],
        batch: TokenBatch,
        hidden_TD: Tensor,
        logprobs_T: Tensor,
        entropy_T: Tensor,
    ) -> OldPolicy:
        policy, spec = self._policy, self._spec
        raw_T = logprobs_T
        if spec.temperature != 1.0:  # the sampler's log-probabilities are those of temperature 1
            raw_T, entropy_T = chunked_logprobs(hidden_TD, policy.head_VD, batch.targets_T)
        gap_T = raw_T - torch.tensor([value for i in part for value in i.rollout.logprobs], device=policy.device)
        reference_T = None
        if spec.kl_coef:
            with policy.as_teacher():
                parent_TD = policy.hidden(batch)
            reference_T, _ = chunked_logprobs(parent_TD, policy.head_VD, batch.targets_T, temperature=spec.temperature)
        return OldPolicy(logprobs_T, gap_T.exp().clamp(max=spec.importance_cap), gap_T, entropy_T, reference_T)
