"""How long the parts of a step of training take: arithmetic on floating-point operations and on bytes that are read."""

from dataclasses import dataclass

from reheatd.plan.memory import Device, kv_bytes_per_token
from reheatd.plan.shape import PolicyShape

READ_EFFICIENCY = 0.6
"""Share of the memory's bandwidth that decoding reaches."""
TRAIN_EFFICIENCY = {"cpu": 0.6, "cuda": 0.35}
"""Share of the device's floating-point rate that forward and backward passes reach. The rate of a CPU is measured with
a matrix product, that of a GPU is the one on its data sheet."""


@dataclass(frozen=True)
class Speed:
    """What a device can do at most."""

    flops: float
    """Floating-point operations per second, in the format of the policy's weights."""
    bandwidth: float
    """Bytes per second from its memory."""


@dataclass(frozen=True)
class Card:
    """A GPU, from its data sheet."""

    name: str
    memory_gb: int
    """In the gigabytes of its name, which are 2**30 bytes."""
    speed: Speed


CARDS = {
    card.name: card
    for card in (
        Card("a10", 24, Speed(125e12, 0.6e12)),
        Card("rtx4090", 24, Speed(165e12, 1.01e12)),
        Card("l40s", 48, Speed(362e12, 0.864e12)),
        Card("a100", 80, Speed(312e12, 2.04e12)),
        Card("h100", 80, Speed(989e12, 3.35e12)),
        Card("h200", 141, Speed(989e12, 4.8e12)),
        Card("b200", 180, Speed(2250e12, 8e12)),
    )
}
"""Dense bfloat16 rates and bandwidths; the slower card of a size comes first."""


def card_of(memory_gb: float) -> Card:
    """The slowest card with at least this memory, or the largest card of all."""
    enough = [card for card in CARDS.values() if card.memory_gb >= memory_gb]
    return enough[0] if enough else list(CARDS.values())[-1]


@dataclass(frozen=True)
class Rollouts:
    """The rollouts of a step."""

    prompts: int
    group_size: int
    prompt_tokens: int
    completion_tokens: int
    """Tokens of the longest answer; a step is as long as its longest answers are."""

    @property
    def count(self) -> int:
        return self.prompts * self.group_size

    @property
    def computed_tokens(self) -> int:
        """Tokens that training computes: a prompt once for its whole group."""
        return self.prompts * (self.prompt_tokens + self.group_size * self.completion_tokens)

    @property
    def tokens(self) -> int:
        """Tokens of one rollout with its prompt."""
        return self.prompt_tokens + self.completion_tokens


def sampling_seconds(
    shape: PolicyShape, rollouts: Rollouts, speed: Speed, *, itemsize: int, gpus: int, engines: int, together: int
) -> float:
    """Seconds in which the engines sample the rollouts.

    Every token of a sequence takes one step of its engine, which reads all weights and the keys and values of the
    sequences in it; or computes, if that takes longer.

    Args:
        gpus: GPUs of each engine.
        together: Sequences that each engine decodes together, at most.
    """
    share = -(-rollouts.count // engines)
    together = min(share, together)
    middle = rollouts.prompt_tokens + rollouts.completion_tokens // 2
    kv_read = together * middle * kv_bytes_per_token(shape, itemsize, gpus)
    reads = (shape.parameters * itemsize / gpus + kv_read) / (READ_EFFICIENCY * speed.bandwidth)
    computes = together * forward_flops(shape, middle) / (gpus * READ_EFFICIENCY * speed.flops)
    waves = -(-share // together)
    return waves * rollouts.completion_tokens * max(reads, computes)


def training_seconds(
    shape: PolicyShape, rollouts: Rollouts, speed: Speed, *, device: Device, checkpointed: bool
) -> float:
    """Seconds of one optimiser step over the rollouts.

    The base is frozen, so the backward pass computes gradients of states only and costs as much as the forward pass.
    Checkpointing computes the forward pass once more.
    """
    passes = 2 + checkpointed
    flops = rollouts.computed_tokens * passes * forward_flops(shape, rollouts.tokens // 2)
    return flops / (TRAIN_EFFICIENCY[device] * speed.flops)


def forward_flops(shape: PolicyShape, context: int) -> float:
    """Floating-point operations of one token's forward pass, with so many tokens before it."""
    tables = 1 if shape.tied else 2
    used = shape.parameters - (tables - 1) * shape.vocabulary * shape.hidden
    return 2 * used + 4 * shape.layers * shape.query_width * context
