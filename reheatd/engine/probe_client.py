"""Samples probes directly from the engines, and keeps the same account of requests in flight as the gateway."""

from collections.abc import Mapping, Sequence
from typing import Any

from reheatd.engine.client import Sample
from reheatd.engine.pool import EnginePool
from reheatd.engine.slots import AdapterSlots
from reheatd.names import BASE_MODEL_NAME, version_name
from reheatd.tap.wire import tags


class ProbeClient:
    """Samples probes, each under a lease on its version so that a swap waits for it.

    The entropy tap learns that these requests are probes. Each goes to the least busy engine, so that a window covers
    all engines that serve.
    """

    def __init__(self, pool: EnginePool, slots: AdapterSlots) -> None:
        self._pool = pool
        self._slots = slots

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[Sample]:
        """Samples a chat like `EngineClient.chat`.

        Raises:
            EngineError: No engine serves, or the engine that was asked refuses or breaks off.
        """
        version = version_name(0) if model == BASE_MODEL_NAME else model
        replica = self._pool.pick()
        with self._slots.lease(model), replica.occupied("probe"):
            name = self._slots.engine_name(model)
            return await replica.client.chat(name, messages, xargs=tags(version, "probe"), **options)
