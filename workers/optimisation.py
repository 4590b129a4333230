"""Adam on the LoRA weights, with warm-up and gradient clipping. A step that is not finite ends the job."""

from collections.abc import Iterable

import torch

from reheatd.errors import TrainingDivergedError
from reheatd.options import TrainingOptions


def make_optimizer(parameters: Iterable[torch.nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Adam without weight decay. Its second moment forgets fast, because runs are tens of steps long."""
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.95))
    for group in optimizer.param_groups:
        group["initial_lr"] = learning_rate
    return optimizer


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    options: TrainingOptions,
    step: int,
) -> float:
    """Clips the gradients, takes an optimiser step and clears the gradients.

    Args:
        options: Give the warm-up and the norm at which gradients are clipped.
        step: Optimiser steps taken before this one.

    Returns:
        The gradient's norm before clipping.

    Raises:
        TrainingDivergedError: The norm is not finite; the weights are left as they were.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, options.max_grad_norm))
    if norm != norm or norm == float("inf"):
        raise TrainingDivergedError(f"the gradient norm is {norm} at step {step}; lower the learning rate")
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * min(1.0, (step + 1) / max(1, options.warmup_steps))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
