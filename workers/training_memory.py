"""Memory of a training pass: how many tokens go through the policy together, and whether its layers are checkpointed.

The first figures come from the shape of the model and from the memory that is free when training begins. Where they
are wrong, an allocation fails: then layers are checkpointed, micro-batches are halved, and both is remembered.
"""

import gc
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import torch

from reheatd.errors import ReheatdError
from reheatd.options import Checkpointing
from workers.free_memory import free_bytes, is_out_of_memory
from workers.shared_prompts import Sequences, computed_positions

logger = logging.getLogger(__name__)

MICRO_BATCH_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Tokens times hidden size of one forward and backward pass. On a CPU, a larger pass is no faster."""
SHARE = {"cpu": 0.5, "cuda": 0.8}
"""Share of the free memory that activations may take. On a CPU, other processes need some of it."""
HOLES = 1.25
"""Memory that a pass takes, with the holes in the heap and the chunks of logits, over what its activations take. It is
1.3 on a CPU for SmolLM2-135M and 4,096 tokens (`make bench-distill`)."""


class OutOfMemoryError(ReheatdError, MemoryError):
    """A single sequence does not fit into memory."""

    code = "out_of_memory"


@dataclass(frozen=True)
class ActivationCost:
    """Bytes of activations per token of a forward and backward pass."""

    plain: int
    checkpointed: int

    @classmethod
    def of(cls, config: Any, itemsize: int) -> "ActivationCost":
        """The cost for a model of this text configuration, whose activations have `itemsize` bytes.

        A layer of width D with H query heads, K heads of keys and values of width d and an MLP of width I keeps for the
        backward pass: the inputs of its linear layers (D, H d, D, I), queries, keys, values and the output of attention
        (2 H d + 2 K d), three states of the gated MLP (3 I), and two inputs of norms in float32 (2 D). A checkpointed
        layer keeps only its input (D); one layer at a time is then computed again, with as much for its gradients.
        Outside the layers, the states and their gradients in the loss take 4 D in float32.
        """
        hidden, heads = config.hidden_size, config.num_attention_heads
        head = getattr(config, "head_dim", None) or hidden // heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
        layer = itemsize * (2 * hidden + 3 * heads * head + 2 * groups * head + 4 * inner) + 2 * 4 * hidden
        layers, outside = config.num_hidden_layers, 4 * 4 * hidden
        return cls(layers * layer + outside, layers * itemsize * hidden + 2 * layer + outside)


class MicroBatch(Protocol):
    """Sequences that go through the model together."""

    @property
    def sequences(self) -> Sequences: ...

    def halves(self) -> "tuple[Self, Self]":
        """Two micro-batches with half of the sequences each; only called where there are several."""
        ...


Batch = TypeVar("Batch", bound=MicroBatch)


class TrainingMemory:
    """Decides how a policy's training passes use memory, and runs micro-batches within it."""

    def __init__(self, cost: ActivationCost, width: int, device: torch.device, checkpointing: Checkpointing) -> None:
        """Measures the free memory; make it once everything that stays in memory is there.

        Args:
            width: The hidden size.
            checkpointing: `auto` checkpoints the passes that do not fit otherwise.
        """
        budget = SHARE[device.type] * free_bytes(device) / HOLES
        self._device = device
        self._checkpointing = checkpointing
        self._least = cost.plain if checkpointing is False else cost.checkpointed
        self.tokens = max(1, min(efficient_tokens(device, width), int(budget / self._least)))
        """Tokens that go through the policy together, at most, if they belong to more than one sequence."""
        limits = {True: 0, False: sys.maxsize, "auto": int(budget / cost.plain)}
        self._plain_positions = limits[checkpointing]

    def checkpoints(self, positions: int) -> bool:
        """Whether a training pass over this many positions checkpoints the layers."""
        return positions > self._plain_positions

    def run(self, batches: list[Batch], work: Callable[[Batch], None]) -> None:
        """Does `work` on every micro-batch. One that does not fit is repeated with checkpoints, or in halves.

        Args:
            batches: A micro-batch that was halved is replaced by its halves.
            work: Leaves nothing behind if an allocation in it fails.

        Raises:
            OutOfMemoryError: A single sequence does not fit.
        """
        done = 0
        while done < len(batches):
            batch = batches[done]
            positions = computed_positions(batch.sequences)
            if self._can_fit(batch, positions) and self._did(work, batch):
                done += 1
            elif self._checkpointing == "auto" and not self.checkpoints(positions):
                self._plain_positions = positions // 2
                logger.warning("a pass over %d positions ran out of memory; passes like it checkpoint", positions)
            elif len(batch.sequences) > 1:
                self.tokens = max(1, min(self.tokens, positions) // 2)
                logger.warning("a pass over %d positions ran out of memory; it is halved", positions)
                batches[done : done + 1] = batch.halves()
            else:
                raise self._too_long(positions)

    def _can_fit(self, batch: MicroBatch, positions: int) -> bool:
        """False for what would be killed: on a CPU, Linux ends a process that takes more memory than there is."""
        if self._device.type != "cpu" or positions <= self.tokens:
            return True
        return HOLES * positions * self._least <= free_bytes(self._device)

    def _did(self, work: Callable[[Batch], None], batch: Batch) -> bool:
        """Whether `work` had enough memory."""
        try:
            work(batch)
            return True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, where the error has gone, is what it held free.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _too_long(self, positions: int) -> OutOfMemoryError:
        checkpoint = "set workers.gradient_checkpointing to auto, " if self._checkpointing is False else ""
        free = free_bytes(self._device) / 2**30
        return OutOfMemoryError(
            f"a sequence of {positions} tokens does not fit into the memory of {self._device.type}, where {free:.1f} "
            f"GiB are free; {checkpoint}lower max_tokens, or give the worker more memory, for example what the engine "
            "takes on the same device",
            param="max_tokens",
        )


def efficient_tokens(device: torch.device, width: int) -> int:
    """Tokens of a pass beyond which a larger one is no faster."""
    return max(256, MICRO_BATCH_ELEMENTS[device.type] // width)
