"""What the daemon's processes get of the GPUs of this machine."""

import json
from dataclasses import dataclass
from pathlib import Path

from reheatd.config import Settings
from reheatd.plan.demand import demand_of
from reheatd.plan.fit import CUDA_ITEMSIZE, ENGINE_ALONE, Machine, fit
from reheatd.plan.gpu_memory import gpu_memory_bytes
from reheatd.plan.placement import Placement, asked_split, place
from reheatd.plan.shape import PolicyShape
from reheatd.process.gpus import selectors, visible_gpus


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
    if engine.gpu_memory_utilization != "auto":
        share = engine.gpu_memory_utilization
    elif engine.urls or not settings.workers.count or (names and not _shared(placement)):
        share = ENGINE_ALONE
    else:
        memory = gpu_memory_bytes(visible_gpus())
        demand = demand_of(settings, shape)
        fitted = fit(demand, Machine("cuda", memory, CUDA_ITEMSIZE[engine.dtype]), placement)
        share = fitted.utilization or ENGINE_ALONE
    return GpuPlan(tuple(EngineGpus(each, share) for each in placement.engines), placement.workers)


def _shared(placement: Placement) -> bool:
    """Whether a worker uses a GPU of an engine."""
    return any(placement.sharers(gpu) for engine in placement.engines for gpu in engine)
