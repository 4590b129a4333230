"""Continued RL: group-relative policy gradient with verifiable rewards.

GRPO (arXiv 2402.03300) with token-level normalisation, asymmetric clip and dropped zero-variance groups (DAPO, arXiv
2503.14476), advantages without division by the standard deviation unless asked for (Dr. GRPO, arXiv 2503.20783), and
truncated importance sampling between the sampler's and the trainer's log-probabilities, which differ because the two
run different kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reheatd.jobs.contracts import EntropyEstimate, RLSpec
from workers.losses import chunked_logprobs
from workers.optimisation import make_optimizer, optimizer_step
from workers.policy import Policy, TokenBatch, micro_batches
from workers.progress import Progress
from workers.rewards.verifier import Verifier
from workers.sampling import Rollout, Sampler, parent_entropy
from workers.task_data import Problem

MAX_RESAMPLES = 2
"""Further batches sampled when every group of a step has zero variance; after that the step is a no-op."""
MICRO_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class ScoredRollout:
    rollout: Rollout
    reward: float
    advantage: float


@dataclass(frozen=True)
class OldPolicy:
    """The trainer before the first update on a micro-batch."""

    logprobs_T: Tensor
    """At the sampling temperature."""
    importance_T: Tensor
    """Truncated ratio of trainer to sampler at temperature 1."""
    gap_T: Tensor
    """log p of the trainer less that of the sampler, at temperature 1."""


@dataclass(frozen=True)
class RLOutcome:
    steps: int
    entropy_before: EntropyEstimate
    entropy_after: EntropyEstimate
    noop_steps: int
    """Steps without any group whose rewards differ: nothing was learned in them."""


def group_advantages(rewards: Sequence[float], *, normalise_std: bool) -> list[float] | None:
    """Advantage of every rollout of a group over the group's mean; None when all rewards are equal."""
    if max(rewards) - min(rewards) < 1e-9:
        return None
    mean = sum(rewards) / len(rewards)
    centred = [reward - mean for reward in rewards]
    if not normalise_std:
        return centred
    std = (sum(value * value for value in centred) / len(centred)) ** 0.5
    return [value / std for value in centred]


def policy_gradient_loss(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    importance_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate, summed over tokens, and which tokens were clipped.

    Args:
        old_logprobs_T: The trainer's own log-probabilities before the first update on this batch.
        importance_T: Truncated ratio of the trainer to the sampler; a constant weight.
        clip_low, clip_high: The ratio to `old_logprobs_T` is clipped to [1 - clip_low, 1 + clip_high].
    """
    ratio_T = (logprobs_T - old_logprobs_T).exp()
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    surrogate_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    is_clipped_T = surrogate_T.detach() < (ratio_T * advantages_T).detach()
    return -(importance_T * surrogate_T).sum(), is_clipped_T


class Grpo:
    """One run of continued RL: sample groups, score them, take a step, publish the student, repeat."""

    def __init__(
        self,
        policy: Policy,
        spec: RLSpec,
        sampler: Sampler,
        problems: Sequence[Problem],
        verifier: Verifier,
        progress: Progress,
    ) -> None:
        self._policy = policy
        self._spec = spec
        self._sampler = sampler
        self._problems = problems
        self._verifier = verifier
        self._progress = progress
        self._optimizer = make_optimizer(policy.parameters(), spec.learning_rate)
        self._updates = 0
        self._drawn = 0

    def run(self) -> RLOutcome:
        """Takes `spec.steps` steps; the sampler then serves the final student."""
        spec = self._spec
        before = parent_entropy(spec, self._sampler, self._progress)
        noops = 0
        for step in range(spec.steps):
            scored, metrics = self._collect(step)
            if scored:
                metrics |= self._learn(scored)
                self._sampler.publish(self._policy, step + 1)
            else:
                noops += 1
            metrics["noop_steps"] = float(noops)
            self._progress.report("training", step + 1, metrics)
        self._progress.report("measuring", spec.steps)
        after = self._sampler.measure_entropy(spec.seed + spec.steps)
        return RLOutcome(spec.steps, before, after, noops)

    def _collect(self, step: int) -> tuple[list[ScoredRollout], dict[str, float]]:
        """Samples and scores groups until one has rewards that differ, within the limit of resamples."""
        spec = self._spec
        rewards: list[float] = []
        lengths: list[int] = []
        groups = flat = truncated = 0
        scored: list[ScoredRollout] = []
        for attempt in range(1 + MAX_RESAMPLES):
            self._progress.report("sampling", step)
            problems = [self._problems[(self._drawn + i) % len(self._problems)] for i in range(spec.prompts_per_step)]
            self._drawn += len(problems)
            sampled = self._sampler.sample(
                [problem.messages for problem in problems],
                n=spec.group_size,
                max_tokens=spec.max_tokens,
                temperature=spec.temperature,
                seed=spec.seed + step * (1 + MAX_RESAMPLES) + attempt,
            )
            self._progress.report("scoring", step)
            for problem, rollouts in zip(problems, sampled, strict=True):
                if len(rollouts) < 2:
                    continue
                group = [self._verifier.score(rollout.text, problem.answer) for rollout in rollouts]
                groups += 1
                rewards += group
                lengths += [len(rollout.token_ids) for rollout in rollouts]
                truncated += sum(rollout.truncated for rollout in rollouts)
                advantages = group_advantages(group, normalise_std=spec.normalise_std)
                if advantages is None:
                    flat += 1
                    continue
                scored += [ScoredRollout(*row) for row in zip(rollouts, group, advantages, strict=True)]
            if scored:
                break
        count = max(1, len(rewards))
        return scored, {
            "reward": sum(rewards) / count,
            "zero_variance_groups": flat / max(1, groups),
            "completion_tokens": sum(lengths) / count,
            "truncated": truncated / count,
            "verifier_timeouts": float(self._verifier.timeouts),
        }

    def _learn(self, scored: list[ScoredRollout]) -> dict[str, float]:
        """`epochs` optimiser steps on one batch of rollouts."""
        old: dict[int, OldPolicy] = {}
        metrics: dict[str, float] = {}
        for _ in range(self._spec.epochs):
            metrics = self._update(scored, old)
        return metrics

    def _update(self, scored: list[ScoredRollout], old: dict[int, OldPolicy]) -> dict[str, float]:
        """One optimiser step. `old` keeps, per micro-batch, the trainer's log-probabilities before the first one."""
        policy, spec = self._policy, self._spec
        tokens = sum(len(item.rollout.token_ids) for item in scored)
        totals = {"loss": 0.0, "entropy": 0.0, "logprob_gap": 0.0, "clip_fraction": 0.0, "importance_capped": 0.0}
        lengths = [len(item.rollout.prompt_ids) + len(item.rollout.token_ids) for item in scored]
        for number, indices in enumerate(micro_batches(lengths, MICRO_BATCH_TOKENS)):
            part = [scored[i] for i in indices]
            batch = TokenBatch.build([(i.rollout.prompt_ids, i.rollout.token_ids) for i in part], policy.device)
            hidden_TD = policy.hidden(batch)
            logprobs_T, entropy_T = chunked_logprobs(
                hidden_TD, policy.head_VD, batch.targets_T, temperature=spec.temperature
            )
            if spec.temperature == 1.0:
                raw_T = logprobs_T.detach()
            else:  # the sampler's log-probabilities are those of temperature 1
                raw_T, _ = chunked_logprobs(hidden_TD.detach(), policy.head_VD, batch.targets_T)
            sampler_T = torch.tensor([value for i in part for value in i.rollout.logprobs], device=policy.device)
            if number not in old:
                gap_T = raw_T - sampler_T
                old[number] = OldPolicy(logprobs_T.detach(), gap_T.exp().clamp(max=spec.importance_cap), gap_T)
            before = old[number]
            advantages = torch.tensor([i.advantage for i in part], device=policy.device)
            loss, clipped_T = policy_gradient_loss(
                logprobs_T,
                before.logprobs_T,
                advantages[batch.rows_T],
                before.importance_T,
                clip_low=spec.clip_low,
                clip_high=spec.clip_high,
            )
            (loss / tokens).backward()
            totals["loss"] += loss.item() / tokens
            totals["entropy"] += float(entropy_T.detach().sum()) / tokens
            totals["clip_fraction"] += float(clipped_T.sum()) / tokens
            totals["logprob_gap"] += float(before.gap_T.abs().sum()) / tokens
            totals["importance_capped"] += float((before.importance_T >= spec.importance_cap).sum()) / tokens
        totals["grad_norm"] = optimizer_step(self._optimizer, policy.parameters(), spec.learning_rate, self._updates)
        self._updates += 1
        return totals
