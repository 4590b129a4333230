"""What the daemon's processes get of the GPUs of this machine."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reheatd.config import Settings
from reheatd.errors import ConfigError
from reheatd.plan.demand import demand_of
from reheatd.plan.fit import CUDA_ITEMSIZE, ENGINE_ALONE, Demand, Machine, fit
from reheatd.plan.gpu_memory import gpu_memory_bytes
from reheatd.plan.memory import engine_needs, kv_bytes_per_token
from reheatd.plan.placement import Placement, asked_split, place
from reheatd.plan.shape import PolicyShape
from reheatd.process.gpus import selectors, visible_gpus

SURE = 0.8
"""Share of the memory left for a KV cache on which a length may count, because the other needs are estimates."""


@dataclass(frozen=True)
class EngineGpus:
    """What one engine gets."""

    gpus: tuple[str, ...]
    """Names in CUDA_VISIBLE_DEVICES."""
    utilization: float
    """Share of their memory."""


@dataclass(frozen=True)
class GpuPlan:
    """What each engine and each worker gets."""

    engines: tuple[EngineGpus, ...]
    workers: tuple[str, ...]
    """The GPU of each worker that the daemon starts."""
    kv_tokens: int | None = None
    """Tokens that the KV cache of each engine surely holds; None if they were not needed, or if it is not known."""


def plan_gpus(settings: Settings, model: Path) -> GpuPlan:
    """Shares out the GPUs that this process may use.

    Where the engines are not the daemon's own, it leaves them the GPUs that they would have here.

    Args:
        model: Folder of the policy.

    Raises:
        ConfigError: There are not enough GPUs for the engines, or their memory is too small.
    """
    engine, names = settings.engine, selectors()
    shape = PolicyShape.read(json.loads((model / "config.json").read_text("utf-8")))
    placement = place(
        names,
        replicas=engine.replicas,
        workers=settings.workers.count,
        heads=shape.heads,
        split=asked_split(engine.extra_args),
    )
    demand = demand_of(settings, shape)
    if engine.gpu_memory_utilization != "auto":
        share = engine.gpu_memory_utilization
    elif engine.urls or not settings.workers.count or (names and not _shared(placement)):
        share = ENGINE_ALONE
    else:
        memory = gpu_memory_bytes(visible_gpus())
        fitted = fit(demand, Machine("cuda", memory, CUDA_ITEMSIZE[engine.dtype]), placement)
        share = fitted.utilization or ENGINE_ALONE
    engines = tuple(EngineGpus(each, share) for each in placement.engines)
    kv_tokens = None
    if settings.policy.max_model_len == "auto" and not engine.urls:
        with suppress(ConfigError):  # vLLM says itself if its memory is too small
            kv_tokens = _kv_tokens(demand, gpu_memory_bytes(visible_gpus()), CUDA_ITEMSIZE[engine.dtype], engines[0])
    return GpuPlan(engines, placement.workers, kv_tokens)


def _kv_tokens(demand: Demand, memory: int, itemsize: int, engine: EngineGpus) -> int:
    """Tokens that fit beside everything else into an engine's share of GPUs with so many bytes."""
    gpus = max(1, len(engine.gpus))
    needs = engine_needs(
        demand.shape,
        demand.adapters,
        device="cuda",
        itemsize=itemsize,
        gpus=gpus,
        max_num_seqs=demand.max_num_seqs,
    )
    left = max(0.0, engine.utilization * memory - needs.total)
    return int(SURE * left) // kv_bytes_per_token(demand.shape, itemsize, gpus)


def _shared(placement: Placement) -> bool:
    """Whether a worker uses a GPU of an engine."""
    return any(placement.sharers(gpu) for engine in placement.engines for gpu in engine)
