"""The arithmetic of group-relative policy gradients: advantages, the clipped surrogate and the KL term.

Axes: T completion tokens of a batch. All log-probabilities are in nats.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def rewards_vary(rewards: Sequence[float]) -> bool:
    """Whether the rewards of a group differ, so that it teaches something."""
    return max(rewards) - min(rewards) >= 1e-9


def group_advantages(rewards: Sequence[float], *, normalise_std: bool) -> list[float] | None:
    """The advantage of every rollout of a group over the group's mean; None if all rewards are equal."""
    if not rewards_vary(rewards):
        return None
    mean = sum(rewards) / len(rewards)
    centred = [reward - mean for reward in rewards]
    if not normalise_std:
        return centred
    std = (sum(value * value for value in centred) / len(centred)) ** 0.5
    return [value / std for value in centred]


def clipped_surrogate(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    importance_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Tensor]:
    """The loss of every token, [T], and whether it was clipped, [T].

    Args:
        old_logprobs_T: The trainer's own log-probabilities before the first update on this batch.
        importance_T: Truncated ratio of the trainer's policy before the first update to the policy that sampled, used
            as a constant weight.
        clip_low, clip_high: The ratio to `old_logprobs_T` is clipped to [1 - clip_low, 1 + clip_high].
    """
    ratio_T = (logprobs_T - old_logprobs_T).exp()
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    surrogate_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    is_clipped_T = surrogate_T.detach() < (ratio_T * advantages_T).detach()
    return -importance_T * surrogate_T, is_clipped_T


def reference_kl(logprobs_T: Tensor, old_logprobs_T: Tensor, reference_T: Tensor) -> Tensor:
    """Estimates KL(policy || reference) from each sampled token, [T]; never negative, with an unbiased gradient.

    This is the k3 estimator r - log r - 1 with r = p_ref / p. By itself, it has the gradient of another divergence.
    Multiplied by the ratio to the policy that sampled, p / p_old, both its expectation and its gradient are those of
    the KL (arXiv 2512.02556).
    """
    log_ratio_T = reference_T - logprobs_T
    return (logprobs_T - old_logprobs_T).exp() * (log_ratio_T.exp() - log_ratio_T - 1)
