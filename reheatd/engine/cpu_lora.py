"""vLLM plugin: LoRA on the CPU as one matrix product per adapter in the batch.

vLLM 0.32's CPU kernels gather a full copy of A and B for every token, and they read "no LoRA" (index -1) as the last
adapter slot, so that a base request that shares a batch with an adapter request gets an adapter (vLLM #48421, #49656).
This wrapper sorts the rows of a step by adapter once, skips the rows that have none, and multiplies each group with
its own A and B.

vLLM loads it in each of its processes through the entry-point group `vllm.general_plugins`. It acts on the CPU
platform only and refuses to run with another vLLM version than the one it was checked against. Linear layers are all
it covers: the launcher leaves embeddings and LM head out of the LoRA targets, and an engine that was given them all
the same does not start.
"""

import importlib.metadata
import os
from types import SimpleNamespace
from typing import Any

PLUGIN_NAME = "reheatd_cpu_lora"
CHECKED_VERSIONS = ("0.32.0",)
SELF_TEST_TOLERANCE = 1e-4


def register() -> None:
    """Replaces vLLM's CPU LoRA wrapper; does nothing on other platforms.

    Raises:
        RuntimeError: The vLLM version is not one it was checked against, or the self-test failed. vLLM does not start
            then, which is meant: its own kernels would answer base requests with an adapter.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    import vllm
    from vllm.lora.punica_wrapper import punica_cpu

    version = vllm.__version__.split("+")[0]
    if version not in CHECKED_VERSIONS:
        raise RuntimeError(
            f"reheatd's CPU LoRA kernels are checked against vLLM {', '.join(CHECKED_VERSIONS)}, this is {version}; "
            "install reheatd's own lock file (make setup)"
        )
    if getattr(punica_cpu.PunicaWrapperCPU, "is_grouped", False):
        return  # vLLM may load its plugins several times in one process
    wrapper = grouped_wrapper(punica_cpu.PunicaWrapperCPU)
    error = self_test(wrapper)
    if not error <= SELF_TEST_TOLERANCE:
        raise RuntimeError(
            f"reheatd's CPU LoRA kernels failed their self-test: off by {error:.2e}, allowed {SELF_TEST_TOLERANCE:.0e}"
        )
    punica_cpu.PunicaWrapperCPU = wrapper


def require() -> None:
    """Checks that vLLM will load this plugin.

    Raises:
        RuntimeError: It is not installed, or `VLLM_PLUGINS` leaves it out.
    """
    installed = importlib.metadata.entry_points(group="vllm.general_plugins")
    if PLUGIN_NAME not in installed.names:
        raise RuntimeError(
            f"vLLM plugin {PLUGIN_NAME} is not installed, and without it base requests that share a batch with an "
            "adapter get wrong answers on the CPU; install reheatd again (make setup)"
        )
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN_NAME not in allowed.split(","):
        raise RuntimeError(
            f"VLLM_PLUGINS={allowed} leaves out {PLUGIN_NAME}, without which base requests that share a batch with an "
            "adapter get wrong answers on the CPU; add it to the list or unset the variable"
        )


def grouped_wrapper(stock: type) -> Any:
    """A subclass of vLLM's CPU wrapper `stock` with grouped LoRA for linear layers."""
    import torch
    from torch.nn import functional as F

    class GroupedPunicaWrapperCPU(stock):
        """Rows grouped by adapter slot: one shrink and one expand product per adapter and layer slice."""

        is_grouped = True

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._groups: list[tuple[int, torch.Tensor | None]] = []

        def update_metadata(self, *args: Any, **kwargs: Any) -> None:
            super().update_metadata(*args, **kwargs)
            self.group_rows(self.token_lora_indices)

        def group_rows(self, slots_T: torch.Tensor) -> None:
            """Groups the rows of this step by adapter slot; -1 belongs to no group. None stands for every row."""
            slots = [int(slot) for slot in slots_T.unique() if slot >= 0]
            if len(slots) == 1 and bool((slots_T == slots[0]).all()):
                self._groups = [(slots[0], None)]
            else:
                self._groups = [(slot, (slots_T == slot).nonzero().squeeze(1)) for slot in slots]

        def add_lora_linear(
            self,
            y: torch.Tensor,
            x: torch.Tensor,
            lora_a_stacked: tuple[torch.Tensor, ...],
            lora_b_stacked: tuple[torch.Tensor, ...],
            scale: float,
            output_slices: tuple[int, ...],
            **_: Any,
        ) -> None:
            """y[rows, slice] += scale * x[rows] A^T B^T for each group of rows and each slice.

            Shapes: x [T, in], y [T, sum of slices], A [slots, 1, rank, in], B [slots, 1, slice, rank].
            """
            x_TD = x.view(-1, x.shape[-1])
            y_TO = y.view(-1, y.shape[-1])
            for slot, rows in self._groups:
                x_rD = x_TD if rows is None else x_TD.index_select(0, rows)
                offset = 0
                for a_stacked, b_stacked, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                    a_RD, b_OR = a_stacked[slot, 0], b_stacked[slot, 0]
                    update_rO = F.linear(F.linear(x_rD, a_RD.to(x.dtype)), b_OR.to(x.dtype))
                    # The adapter's slice may be padded to another width than the layer's.
                    width = min(size, update_rO.shape[1])
                    y_slice = y_TO.narrow(1, offset, width)
                    update_rO = update_rO[:, :width].to(y.dtype)
                    if rows is None:
                        y_slice.add_(update_rO, alpha=scale)
                    else:
                        y_slice.index_add_(0, rows, update_rO, alpha=scale)
                    offset += size

        def add_lora_logits(self, *_: Any, **__: Any) -> None:
            raise NotImplementedError("LoRA on the LM head is not served on the CPU; leave lm_head out of the targets")

        def add_lora_embedding(self, *_: Any, **__: Any) -> None:
            raise NotImplementedError("LoRA on embeddings is not served on the CPU; leave them out of the targets")

    return GroupedPunicaWrapperCPU


def self_test(wrapper: Any) -> float:
    """Largest relative error against a row-by-row reference, on rows of two adapters and of none, two slices.

    The rows reach the wrapper as vLLM's model manager gives them: adapter ids per row and the id held by each slot.
    """
    import torch

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    slices, rank, width, scale = (24, 8), 4, 16, 0.5
    a_stacked = tuple(random(3, 1, rank, width) for _ in slices)
    b_stacked = tuple(random(3, 1, size, rank) for size in slices)
    ids = [7, 9, 8]  # of the adapters in slots 0, 1, 2
    worst = 0.0
    for slots in ([2, -1, 0, -1, 2, 0, 0], [1, 1, 1], [-1, -1]):
        x, y = random(len(slots), width), random(len(slots), sum(slices))
        expected = y.clone()
        for row, slot in enumerate(slots):
            if slot >= 0:
                updates = [b[slot, 0] @ (a[slot, 0] @ x[row]) for a, b in zip(a_stacked, b_stacked, strict=True)]
                expected[row] += scale * torch.cat(updates)
        tested = wrapper(max_num_batched_tokens=len(slots), max_batches=len(slots), device="cpu")
        row_ids = tuple(ids[slot] if slot >= 0 else 0 for slot in slots)
        mapping = SimpleNamespace(index_mapping=row_ids, prompt_mapping=row_ids, is_prefill=True)
        tested.update_metadata(mapping, ids, len(ids), 1)
        tested.add_lora_linear(y, x, a_stacked, b_stacked, scale, slices)
        worst = max(worst, float((y - expected).abs().max() / expected.abs().max()))
    return worst
