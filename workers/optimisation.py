"""Adam on the LoRA weights with warm-up and gradient clipping; a step that is not finite ends the job."""

from collections.abc import Iterable

import torch

from reheatd.errors import ReheatdError

WARMUP_STEPS = 3
"""Adam's first steps have full size whatever the gradient; they are taken at 1/3 and 2/3 of the learning rate."""
MAX_GRAD_NORM = 1.0


class TrainingDivergedError(ReheatdError, ArithmeticError):
    """A loss or gradient is not finite."""

    code = "training_diverged"


def make_optimizer(parameters: Iterable[torch.nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Adam without weight decay; its second moment forgets fast, as runs are tens of steps long."""
    return torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.95))


def optimizer_step(
    optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], learning_rate: float, step: int
) -> float:
    """Clips, steps and clears the gradients.

    Args:
        step: Optimiser steps taken before this one.

    Returns:
        The gradient's norm before clipping.

    Raises:
        TrainingDivergedError: The norm is not finite; the weights are left as they were.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
    if norm != norm or norm == float("inf"):
        raise TrainingDivergedError(f"the gradient norm is {norm} at step {step}; lower the learning rate")
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * min(1.0, (step + 1) / WARMUP_STEPS)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
