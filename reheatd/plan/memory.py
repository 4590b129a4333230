"""Memory that an engine and a worker take for a policy: arithmetic on the policy's shape; docs/plan.md explains it."""

from dataclasses import dataclass
from typing import Literal

from reheatd.plan.shape import PolicyShape

Device = Literal["cpu", "cuda"]

HOLES = 1.25
"""Memory that a training pass takes, with the holes in the heap and the chunks of logits, over what its activations
take. It is 1.3 on a CPU for SmolLM2-135M and 4,096 tokens (`make bench-distill`)."""
MICRO_BATCH_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Tokens times hidden size of one forward and backward pass. On a CPU, a larger pass is no faster."""
LORA_COPIES = 6
"""Float32 numbers for each weight of a LoRA in training: the weight, its gradient, two moments of Adam, the parent's
weight, and the copy that a step can be taken back to."""
LOGITS_BYTES = {"cpu": 4 << 25, "cuda": 4 << 28}
"""Chunks of logits of a loss: four, of at most 32 MB on a CPU and 256 MB on a GPU."""
WORKER_RUNTIME_BYTES = {"cpu": 800 << 20, "cuda": 1 << 30}
"""Libraries and, on a GPU, the CUDA context and the work space of its kernels. It is assumed on a GPU; on a CPU, plans
with it are within a tenth of what a run takes (`make bench-plan`)."""
ENGINE_RUNTIME_BYTES = {"cpu": 1300 << 20, "cuda": 2 << 30}
"""The same for vLLM with, on a GPU, its CUDA graphs."""
ENGINE_STEP_TOKENS = {"cpu": 160, "cuda": 8192}
"""Tokens of an engine's largest step."""
ADAPTER_COPIES = {"cpu": 2, "cuda": 1}
"""Copies of an adapter's slot in a device's memory. vLLM keeps one in the memory of the machine, too, which on a CPU is
the device's own."""


@dataclass(frozen=True)
class ActivationCost:
    """Bytes of activations per token of a forward and backward pass."""

    plain: int
    checkpointed: int

    @classmethod
    def of(cls, shape: PolicyShape, itemsize: int) -> "ActivationCost":
        """The cost for a policy of this shape, whose activations have `itemsize` bytes.

        A layer of width D with H query heads, K heads of keys and values of width d and an MLP of width I keeps for the
        backward pass: the inputs of its linear layers (D, H d, D, I), queries, keys, values and the output of attention
        (2 H d + 2 K d), three states of the gated MLP (3 I), and two inputs of norms in float32 (2 D). A checkpointed
        layer keeps only its input (D); one layer at a time is then computed again, with as much for its gradients.
        Outside the layers, the states and their gradients in the loss take 4 D in float32.
        """
        inner = 2 * shape.hidden + 3 * shape.query_width + 2 * shape.kv_width + 4 * shape.intermediate
        layer = itemsize * inner + 2 * 4 * shape.hidden
        outside = 4 * 4 * shape.hidden
        return cls(
            plain=shape.layers * layer + outside,
            checkpointed=shape.layers * itemsize * shape.hidden + 2 * layer + outside,
        )


@dataclass(frozen=True)
class Needs:
    """Bytes that a process takes on its device, by what takes them."""

    weights: int
    adapters: int
    """Adapter slots of an engine; a worker's LoRA, with gradients and the optimiser's moments."""
    computation: int
    """What one step needs besides: activations and logits."""
    runtime: int
    """Libraries, contexts and compiled kernels."""
    kv_cache: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.computation + self.runtime + self.kv_cache


@dataclass(frozen=True)
class Adapters:
    """The adapters that an engine has room for, and a worker trains."""

    slots: int
    max_rank: int
    """Rank of a slot."""
    rank: int
    """Rank of the adapter in training."""
    targets: tuple[str, ...]
    """Modules with a LoRA in training; a slot has them all."""


ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def engine_needs(
    shape: PolicyShape, adapters: Adapters, *, device: Device, itemsize: int, gpus: int = 1, max_num_seqs: int
) -> Needs:
    """What each GPU of an engine needs besides its KV cache.

    Args:
        gpus: Number of GPUs that the engine's tensors are split over. Slots of adapters are split only in part, and
            count in full.
        max_num_seqs: Sequences that are decoded together.
    """
    slot = shape.lora_parameters(adapters.max_rank, ALL_TARGETS) * itemsize
    states = ENGINE_STEP_TOKENS[device] * itemsize * (4 * shape.hidden + 3 * shape.intermediate // gpus)
    logits = 2 * 4 * max_num_seqs * shape.vocabulary
    return Needs(
        weights=shape.parameters * itemsize // gpus,
        adapters=ADAPTER_COPIES[device] * adapters.slots * slot,
        computation=states + logits,
        runtime=ENGINE_RUNTIME_BYTES[device],
    )


def kv_bytes_per_token(shape: PolicyShape, itemsize: int, gpus: int = 1) -> int:
    """Bytes of one token in the KV cache of each of an engine's GPUs; heads that cannot be split are repeated."""
    heads = max(1, shape.kv_heads // gpus)
    return shape.kv_elements_per_token * itemsize * heads // shape.kv_heads


def worker_needs(
    shape: PolicyShape, adapters: Adapters, *, device: Device, itemsize: int, positions: int, checkpointed: bool
) -> Needs:
    """What a worker needs at its peak.

    Args:
        positions: Tokens that go through the policy together.
        checkpointed: Whether layers are computed again in the backward pass.
    """
    cost = ActivationCost.of(shape, itemsize)
    activations = positions * (cost.checkpointed if checkpointed else cost.plain)
    return Needs(
        weights=shape.parameters * itemsize,
        adapters=LORA_COPIES * 4 * shape.lora_parameters(adapters.rank, adapters.targets),
        computation=int(HOLES * activations) + LOGITS_BYTES[device],
        runtime=WORKER_RUNTIME_BYTES[device],
    )


def efficient_tokens(device: Device, width: int) -> int:
    """Tokens of a training pass beyond which a larger one is no faster.

    Args:
        width: The hidden size.
    """
    return max(256, MICRO_BATCH_ELEMENTS[device] // width)
