"""Adam's moments beside a version's adapter, with which the next job of RL goes on.

They belong to the weights that they were computed with, so only a job that starts from exactly these weights uses them.
"""

import logging
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from reheatd.adapters.store import MOMENTS_FILE
from reheatd.errors import AdapterInvalidError
from reheatd.files import write_atomically
from workers.policy import Policy

logger = logging.getLogger(__name__)

STATE = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of every weight: optimiser steps taken, and the means of gradient and squared gradient."""


def save_moments(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Writes the moments of the student's weights to `folder`; nothing if no optimiser step was ever taken."""
    weights = policy.named_parameters()
    tensors = {
        f"{name}.{key}": value for name, weight in weights.items() for key, value in optimizer.state[weight].items()
    }
    if tensors:
        write_atomically(folder / MOMENTS_FILE, safetensors.torch.save(tensors))


def load_moments(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> int:
    """Gives the optimiser the moments in `folder`, and returns the number of optimiser steps behind them.

    Returns:
        0 if the optimiser starts anew: `folder` holds no moments, or those of a LoRA with other modules or another
        rank.

    Raises:
        AdapterInvalidError: The file is damaged.
    """
    file = folder / MOMENTS_FILE
    if not file.exists():
        return 0
    try:
        tensors = safetensors.torch.load(file.read_bytes())
    except (SafetensorError, OSError) as error:
        raise AdapterInvalidError(
            f"{file} cannot be read ({error}); delete it to start with a new optimiser"
        ) from error
    weights = policy.named_parameters()
    expected = {
        f"{name}.{key}": () if key == "step" else tuple(weight.shape)
        for name, weight in weights.items()
        for key in STATE
    }
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
        logger.warning("%s belongs to a LoRA of another shape; the optimiser starts anew", file)
        return 0
    for name, weight in weights.items():
        step, *means = (tensors[f"{name}.{key}"] for key in STATE)
        optimizer.state[weight] = dict(zip(STATE, [step, *(mean.to(weight.device) for mean in means)], strict=True))
    return max(int(tensors[f"{name}.step"]) for name in weights)
