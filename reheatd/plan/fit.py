"""Fits engines and workers into the memory of a machine: what each gets, and how long a step then takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from reheatd.config_tables import own_share
from reheatd.errors import BadInputError
from reheatd.options import Checkpointing
from reheatd.plan.memory import (
    Adapters,
    Device,
    Needs,
    efficient_tokens,
    engine_needs,
    kv_bytes_per_token,
    worker_needs,
)
from reheatd.plan.placement import Placement
from reheatd.plan.shape import PolicyShape
from reheatd.plan.speed import Rollouts, Speed, sampling_seconds, training_seconds

GIB = 1 << 30
USABLE = {"cpu": 0.9, "cuda": 0.95}
"""Share of a device's memory that engine and worker may take together."""
ENGINE_ALONE = 0.9
"""Share of a GPU's memory that an engine takes if it is alone on it."""
CUDA_ITEMSIZE = {"auto": 2, "bfloat16": 2, "float32": 4}
"""Bytes of a weight on a GPU by `engine.dtype`."""
UNBOUNDED_POSITIONS = 1 << 17
"""Tokens of prompt and completion of a policy whose configuration names no limit."""


@dataclass(frozen=True)
class Machine:
    """What the policy is served and trained on."""

    device: Device
    memory: int
    """Bytes of each GPU, or of the whole machine if it has none."""
    itemsize: int
    """Bytes of a weight of the policy."""


@dataclass(frozen=True)
class Demand:
    """What is to be served and trained."""

    shape: PolicyShape
    adapters: Adapters
    rollouts: Rollouts
    workers: int
    max_num_seqs: int
    """Sequences that an engine decodes together, at most."""
    kv_cache_bytes: int
    """Size of the KV cache on a CPU. On a GPU, the engine gets what is left."""
    checkpointing: Checkpointing = "auto"
    staleness: int = 0
    """`rl.staleness`: with 1, the next rollouts are sampled while a step trains."""

    def answers_of(self, tokens: int) -> "Demand":
        """The same with answers of so many tokens."""
        return replace(self, rollouts=replace(self.rollouts, completion_tokens=tokens))


@dataclass(frozen=True)
class Fit:
    """What engine and worker take, in bytes."""

    engine: Needs
    """Of each GPU of an engine, with its KV cache."""
    worker: Needs
    positions: int
    """Tokens that go through the policy together in training."""
    checkpointed: bool
    kv_tokens: int
    """Tokens that the KV cache of an engine holds."""
    utilization: float | None
    """Share of its GPU's memory that an engine takes; None on a CPU."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step of RL."""

    sampling: float
    training: float
    overlapped: bool
    """Whether the next rollouts are sampled while a step trains, on devices of their own."""

    @property
    def total(self) -> float:
        return max(self.sampling, self.training) if self.overlapped else self.sampling + self.training


def fit(demand: Demand, machine: Machine, placement: Placement) -> Fit:
    """Divides the memory of a machine.

    The worker gets what makes it fastest, as long as the engine keeps enough of a KV cache for the rollouts that are
    sampled together; else it gets less, and in the end only what its longest sequence needs.

    Raises:
        BadInputError: Not even that fits; the message says what would.
    """
    shape, rollouts, device = demand.shape, demand.rollouts, machine.device
    gpus = max(1, len(placement.engines[0]))
    per_token = kv_bytes_per_token(shape, machine.itemsize, gpus)
    engine = engine_needs(
        shape,
        demand.adapters,
        device=device,
        itemsize=machine.itemsize,
        gpus=gpus,
        max_num_seqs=demand.max_num_seqs,
    )
    sharers = _sharers(demand, machine, placement)
    usable = int(USABLE[device] * machine.memory)
    enough = min(rollouts.count, own_share(demand.max_num_seqs)) * rollouts.tokens
    best: Fit | None = None
    ways = list(_ways_to_train(demand, machine))
    for positions, checkpointed, worker in ways:
        beside = sharers * worker.total
        if demand.workers and worker.total > usable:
            continue
        if device == "cpu":
            utilization, kv = None, demand.kv_cache_bytes
            if len(placement.engines) * (engine.total + kv) + beside > usable:
                continue
        else:
            utilization = min(ENGINE_ALONE, int(100 * (usable - beside) / machine.memory) / 100)
            kv = int(utilization * machine.memory) - engine.total
        tokens = kv // per_token
        if tokens >= rollouts.tokens and (best is None or tokens > best.kv_tokens):
            best = Fit(replace(engine, kv_cache=kv), worker, positions, checkpointed, tokens, utilization)
        if tokens >= enough:
            break
    if best is None:
        *_, (_, _, least) = ways
        raise _too_large(demand, machine, engine.total + rollouts.tokens * per_token, least, sharers)
    return best


def longest_answers(demand: Demand, machine: Machine, placement: Placement) -> int:
    """Tokens of the longest answers that still fit, with their prompts within what the model was made for."""
    least = 0
    beyond = (demand.shape.positions or UNBOUNDED_POSITIONS) - demand.rollouts.prompt_tokens + 1
    while beyond - least > 1:
        middle = (least + beyond) // 2
        try:
            fit(demand.answers_of(middle), machine, placement)
            least = middle
        except BadInputError:
            beyond = middle
    return least


def step_time(demand: Demand, machine: Machine, placement: Placement, fitted: Fit, speed: Speed) -> StepTime:
    """How long one step of RL takes."""
    sampling = sampling_seconds(
        demand.shape,
        demand.rollouts,
        speed,
        itemsize=machine.itemsize,
        gpus=max(1, len(placement.engines[0])),
        engines=len(placement.engines),
        together=min(own_share(demand.max_num_seqs), fitted.kv_tokens // demand.rollouts.tokens),
    )
    training = training_seconds(
        demand.shape, demand.rollouts, speed, device=machine.device, checkpointed=fitted.checkpointed
    )
    return StepTime(sampling, training, demand.staleness > 0 and _sharers(demand, machine, placement) == 0)


def _ways_to_train(demand: Demand, machine: Machine) -> Iterator[tuple[int, bool, Needs]]:
    """Ways to train, the fastest first and the one that needs least last.

    Yields:
        Positions together, whether layers are checkpointed, and what that needs.
    """
    rollouts = demand.rollouts
    together = min(efficient_tokens(machine.device, demand.shape.hidden), rollouts.computed_tokens)
    for checkpointed in (False, True) if demand.checkpointing == "auto" else (demand.checkpointing,):
        for positions in sorted({max(together, rollouts.tokens), rollouts.tokens}, reverse=True):
            needs = worker_needs(
                demand.shape,
                demand.adapters,
                device=machine.device,
                itemsize=machine.itemsize,
                positions=positions,
                checkpointed=checkpointed,
            )
            yield positions, checkpointed, needs


def _sharers(demand: Demand, machine: Machine, placement: Placement) -> int:
    """The largest number of workers that share the memory of one device with an engine."""
    if machine.device == "cpu":
        return demand.workers
    return max(placement.sharers(gpu) for engine in placement.engines for gpu in engine)


def _too_large(demand: Demand, machine: Machine, engine: int, worker: Needs, sharers: int) -> BadInputError:
    """The error for a policy that does not fit, with the least change that helps.

    Args:
        engine: Bytes that each GPU of an engine needs for one rollout.
        worker: What a worker needs for its longest sequence.
        sharers: Workers that share a device with an engine.
    """
    usable = USABLE[machine.device] * machine.memory
    where, param = ("this machine", "policy.model") if machine.device == "cpu" else ("a GPU", "gpu_memory")
    message = (
        f"a policy of {demand.shape.parameters / 1e9:.1f} billion weights, with rollouts of {demand.rollouts.tokens} "
        f"tokens, does not fit: an engine needs {engine / GIB:.1f} GiB on each device, a worker "
        f"{worker.total / GIB:.1f} GiB, and {where} has {usable / GIB:.1f} GiB for them"
    )
    apart = max(engine, worker.total if demand.workers else 0)
    if machine.device == "cuda" and sharers and apart <= usable:
        return BadInputError(f"{message}; add a GPU for the worker, or lower max_tokens", param="gpus")
    needed = engine + sharers * worker.total if machine.device == "cpu" else apart
    size = needed / USABLE[machine.device] / GIB
    return BadInputError(f"{message}; use {size:.0f} GiB, shorter rollouts or a smaller policy", param=param)
