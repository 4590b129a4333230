"""Memory of a training pass: how many tokens go through the policy together, and whether its layers are checkpointed.

The first figures come from the shape of the model and from the memory that is free when training begins. Where they
are wrong, an allocation fails: then layers are checkpointed, micro-batches are halved, and both is remembered.
"""

import gc
import logging
import sys
from collections.abc import Callable
from typing import Protocol, Self, TypeVar, cast

import torch

from reheatd.errors import OutOfMemoryError
from reheatd.options import Checkpointing
from reheatd.plan.memory import HOLES, ActivationCost, Device, efficient_tokens
from workers.free_memory import free_bytes, is_out_of_memory
from workers.shared_prompts import Sequences, computed_positions

logger = logging.getLogger(__name__)

SHARE = {"cpu": 0.5, "cuda": 0.8}
"""Share of the free memory that activations may take. On a CPU, other processes need some of it."""


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
        self.tokens = max(1, min(efficient_tokens(cast(Device, device.type), width), int(budget / self._least)))
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
