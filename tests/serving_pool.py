"""Pools of engines that serve already, real or made up."""

from typing import Any

from reheatd.engine.pool import EnginePool, Replica


def pool_of(*engines: Any) -> EnginePool:
    """Of URLs, or of objects that stand in for an engine's client; named engine-1, engine-2, ..."""
    replicas = []
    for number, engine in enumerate(engines, 1):
        replica = Replica(f"engine-{number}", engine if isinstance(engine, str) else "http://nowhere")
        if not isinstance(engine, str):
            replica.client = engine
        replica.enter()
        replicas.append(replica)
    return EnginePool(replicas)
