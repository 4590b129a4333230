"""Gradient checkpointing of a policy's layers: a layer keeps only its input, and the backward pass computes it again.

transformers' own switch needs the model in training mode, in which dropout acts; here it stays in evaluation mode.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


class CheckpointedLayers:
    """The layers of a model, which checkpoint where they are told to."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._active = False
        for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]:
            layer.forward = self._checkpointed(layer)

    @contextmanager
    def checkpoint(self, active: bool) -> Iterator[None]:
        """Inside the context, forward passes checkpoint the layers if `active` is set."""
        self._active = active
        try:
            yield
        finally:
            self._active = False

    def _checkpointed(self, layer: nn.Module) -> Callable[..., Any]:
        plain = layer.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self._active:
                return plain(*args, **kwargs)
            # Nothing in a layer is random, so the state of the random numbers need not be kept.
            return checkpoint(plain, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return forward
