"""Samples probes straight from the engines, without the gateway, and keeps the same accounts as the gateway does."""

from collections.abc import Mapping, Sequence
from typing import Any

from reheatd.engine.client import Sample
from reheatd.engine.pool import EnginePool
from reheatd.engine.slots import AdapterSlots
from reheatd.names import BASE_MODEL_NAME, version_name
from reheatd.tap.wire import tags


class ProbeClient:
    """Holds a lease on the version for each probe, so that a swap waits for it; the entropy tap knows it for a probe.

    Probes go to whichever engine is least busy, so that a window is about all that serve.
    """

    def __init__(self, pool: EnginePool, slots: AdapterSlots) -> None:
        self._pool = pool
        self._slots = slots

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[Sample]:
        """As `EngineClient.chat`.

        Raises:
            EngineError: No engine serves, or the one that was asked refuses or breaks off.
        """
        version = version_name(0) if model == BASE_MODEL_NAME else model
        replica = self._pool.pick()
        with self._slots.lease(model), replica.occupied():
            return await replica.client.chat(model, messages, xargs=tags(version, "probe"), **options)
