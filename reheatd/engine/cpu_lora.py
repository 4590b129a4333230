"""vLLM plugin: LoRA on the CPU as two matrix products per layer, whatever adapters are in the batch.

vLLM 0.32's CPU kernels gather a full copy of A and B for every token. They also read "no LoRA" (index -1) as the last
adapter slot, so that a base request that shares a batch with an adapter request gets an adapter (vLLM #48421, #49656).
This wrapper lays the A of all adapters in a step side by side and multiplies all rows with them. It blanks the results
that belong to another row's adapter, and multiplies the rest with the adapters' B. The products are small, and one
large product costs less than one for each adapter, so a second adapter in a step adds next to nothing.

vLLM loads the plugin in each of its processes through the entry-point group `vllm.general_plugins`. The plugin acts
only on the CPU platform, and refuses to run with a vLLM version that it was not checked against. It covers only linear
layers: the launcher leaves embeddings and LM head out of the LoRA targets, and an engine that is given them all the
same does not start.
"""

import importlib.metadata
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PLUGIN_NAME = "reheatd_cpu_lora"
CHECKED_VERSIONS = ("0.32.0",)
SELF_TEST_TOLERANCE = 1e-4
PACKS_PER_LAYER = 4
"""Number of sets of adapters that are kept laid out side by side. Laying out a set costs a tenth of a step."""


def register() -> None:
    """Replaces vLLM's CPU LoRA wrapper; does nothing on other platforms.

    Raises:
        RuntimeError: The plugin was not checked against this vLLM version, or the self-test failed. vLLM then does not
            start. That is intended, because its own kernels would answer base requests with an adapter.
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
            "install from reheatd's own lock file (make setup)"
        )
    if getattr(punica_cpu.PunicaWrapperCPU, "is_grouped", False):
        return  # vLLM may load its plugins several times in one process
    wrapper = grouped_wrapper(punica_cpu.PunicaWrapperCPU)
    error = _in_one_thread(lambda: self_test(wrapper))
    if not error <= SELF_TEST_TOLERANCE:
        raise RuntimeError(
            f"reheatd's CPU LoRA kernels failed their self-test: off by {error:.2e}, allowed {SELF_TEST_TOLERANCE:.0e}"
        )
    punica_cpu.PunicaWrapperCPU = wrapper


def _in_one_thread(compute: Callable[[], float]) -> float:
    """What `compute` returns, without a pool of threads: a process that has one cannot fork the engine's core."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compute()
    finally:
        torch.set_num_threads(threads)


def require() -> None:
    """Checks that vLLM will load this plugin.

    Raises:
        RuntimeError: The plugin is not installed, or `VLLM_PLUGINS` leaves it out.
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


@dataclass(frozen=True)
class _Pack:
    """The adapters of one step in one layer, side by side."""

    a: "torch.Tensor"
    """The A of n adapters, [slices * n * rank, in]."""
    b: "list[torch.Tensor]"
    """The B of the adapters for each slice, [n * rank, slice]."""
    changes: tuple[int, ...]
    """How often each tensor had been written to when the pack was made."""


def grouped_wrapper(stock: type) -> Any:
    """A subclass of vLLM's CPU wrapper `stock` that computes LoRA for linear layers, for all adapters at once."""
    import torch
    from torch.nn import functional as F

    class GroupedPunicaWrapperCPU(stock):
        """Computes one shrink product per layer and one expand product per slice of it, for all adapters at once."""

        is_grouped = True

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._slots: tuple[int, ...] = ()
            """Slots of the adapters in this step."""
            self._others_T1n1: torch.Tensor | None = None
            """True where a row does not use an adapter; None if the step has one adapter and every row uses it."""
            self._packs: dict[int, OrderedDict[tuple[int, ...], _Pack]] = {}
            """Packs by layer, then by the slots of the adapters in a step."""

        def update_metadata(self, *args: Any, **kwargs: Any) -> None:
            super().update_metadata(*args, **kwargs)
            self.group_rows(self.token_lora_indices)

        def group_rows(self, slots_T: torch.Tensor) -> None:
            """Takes the adapter slot of each row of this step; -1 means that the row uses no adapter."""
            present = slots_T.unique()
            slots_n = present[present >= 0]
            self._slots = tuple(slots_n.tolist())
            everywhere = len(present) == len(slots_n) == 1
            self._others_T1n1 = None if everywhere else (slots_T[:, None] != slots_n)[:, None, :, None]

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
            """Adds scale * x[row] A^T B^T to y[row, slice], with each row's own A and B.

            The shapes are x [T, in], y [T, sum of slices], A [slots, 1, rank, in] and B [slots, 1, slice, rank].
            """
            if not self._slots:
                return
            x_TD = x.view(-1, x.shape[-1])
            y_TO = y.view(-1, y.shape[-1])
            pack = self._pack(lora_a_stacked, lora_b_stacked, x.dtype)
            shrunk = F.linear(x_TD, pack.a)
            if self._others_T1n1 is not None:
                # Filled, not multiplied by 0, because an overflow under one adapter would become NaN in every row.
                shrunk.view(len(x_TD), len(lora_a_stacked), len(self._slots), -1).masked_fill_(self._others_T1n1, 0)
            width = shrunk.shape[1] // len(lora_a_stacked)
            offset = 0
            for index, (b, size) in enumerate(zip(pack.b, output_slices, strict=True)):
                # The adapter's slice may be padded to a width other than the layer's.
                columns = min(size, b.shape[1])
                part_TO = y_TO.narrow(1, offset, columns)
                part_TO.addmm_(shrunk.narrow(1, index * width, width), b[:, :columns], alpha=scale)
                offset += size

        def _pack(
            self, a_stacked: tuple[torch.Tensor, ...], b_stacked: tuple[torch.Tensor, ...], dtype: torch.dtype
        ) -> "_Pack":
            # vLLM loads an adapter by writing into these tensors, which count their changes.
            changes = tuple(tensor._version for tensor in (*a_stacked, *b_stacked))
            packs = self._packs.setdefault(a_stacked[0].data_ptr(), OrderedDict())
            pack = packs.get(self._slots)
            if pack is None or pack.changes != changes:
                a = torch.cat([stacked[slot, 0] for stacked in a_stacked for slot in self._slots]).to(dtype)
                b = [torch.cat([stacked[slot, 0] for slot in self._slots], 1).T.to(dtype) for stacked in b_stacked]
                pack = packs[self._slots] = _Pack(a, [each.contiguous() for each in b], changes)
            packs.move_to_end(self._slots)
            if len(packs) > PACKS_PER_LAYER:
                packs.popitem(last=False)
            return pack

        def add_lora_logits(self, *_: Any, **__: Any) -> None:
            raise NotImplementedError("LoRA on the LM head is not served on the CPU; leave lm_head out of the targets")

        def add_lora_embedding(self, *_: Any, **__: Any) -> None:
            raise NotImplementedError("LoRA on embeddings is not served on the CPU; leave them out of the targets")

    return GroupedPunicaWrapperCPU


def self_test(wrapper: Any) -> float:
    """The largest relative error against a row-by-row reference, on rows with two adapters and with none, two slices.

    The rows reach the wrapper as vLLM's model manager gives them: the adapter id of each row, and the id in each slot.
    """
    import torch

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    slices, rank, width, scale = (24, 8), 4, 16, 0.5
    a_stacked = tuple(random(3, 1, rank, width) for _ in slices)
    b_stacked = tuple(random(3, 1, size, rank) for size in slices)
    ids = [7, 9, 8]  # ids of the adapters in slots 0, 1 and 2
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
