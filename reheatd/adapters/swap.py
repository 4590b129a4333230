"""The hot-swap protocol: stage, verify, flip, drain, unload; and back again when anything fails.

Requests for the alias go to the promoted version at the moment they arrive and stay with it until they end. Up to the
flip a failure leaves the old version serving; after it, the durable record and the alias agree, whatever happens.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from reheatd.adapters.lineage import ALIAS_NAME, BASE_MODEL_NAME, version_name
from reheatd.adapters.proof import ProofReport, prove
from reheatd.adapters.store import AdapterStore
from reheatd.engine.client import EngineClient
from reheatd.engine.slots import AdapterSlots
from reheatd.errors import ConflictError, ModelNotFoundError

log = logging.getLogger(__name__)

SwapStage = Literal["stage", "verify", "flip", "drain", "unload"]


@dataclass(frozen=True)
class SwapReport:
    """One finished swap."""

    from_version: int
    to_version: int
    seconds: float
    """From the start of staging to the flip."""
    proof: ProofReport | None


def engine_name(version: int) -> str:
    """The name under which the engine serves a version."""
    return version_name(version) if version else BASE_MODEL_NAME


class SwapManager:
    """Decides which version the alias means, and changes it safely; one change at a time.

    Args:
        proof_tolerance: See `prove`.
        drain_timeout_s: Longest wait for requests on the version that is replaced. It stays loaded, and is unloaded
            when its slot is needed, if they take longer.
        on_stage: Told each step of a swap as it begins.
    """

    def __init__(
        self,
        store: AdapterStore,
        slots: AdapterSlots,
        client: EngineClient,
        *,
        proof_tolerance: float,
        drain_timeout_s: float,
        on_stage: Callable[[SwapStage, int], None] | None = None,
    ) -> None:
        self._store = store
        self._slots = slots
        self._client = client
        self._proof_tolerance = proof_tolerance
        self._drain_timeout_s = drain_timeout_s
        self._on_stage = on_stage
        self._promoted = store.promoted()
        self._changing = asyncio.Lock()

    @property
    def promoted(self) -> int:
        """The version that the alias means."""
        return self._promoted

    def model_for(self, name: str) -> str:
        """The engine's name for a model a client asks for: the alias, a version or a job's rollout adapter.

        Raises:
            ModelNotFoundError: No such model.
        """
        if name == ALIAS_NAME:
            return engine_name(self._promoted)
        version = self._store.parse_name(name)
        if version is not None and version in self._store.versions():
            return engine_name(version)
        if self._slots.is_loaded(name):
            return name
        raise ModelNotFoundError(f"model {name!r} does not exist; GET /v1/models lists those that do", param="model")

    async def restore(self) -> None:
        """Loads the promoted version after a start of the daemon."""
        if self._promoted:
            await self._load(self._promoted)

    async def stage(self, version: int) -> str:
        """Loads `version` under its own name, beside the one that serves, and returns that name."""
        if version:
            await self._load(version)
        return engine_name(version)

    async def discard(self, version: int) -> None:
        """Unloads a staged version that is not going to be promoted."""
        if version and version != self._promoted:
            await self._slots.unload(engine_name(version), self._drain_timeout_s)

    async def promote(self, version: int, *, prove_delivery: bool = True) -> SwapReport:
        """Makes `version` the one that the alias means.

        Args:
            prove_delivery: Whether the adapter's proof items are scored through the engine before the flip.

        Raises:
            ConflictError: It is promoted already.
            DeliveryError, EngineError, AdapterInvalidError: Before the flip; the old version keeps serving and the
                new one is unloaded.
        """
        async with self._changing:
            if version == self._promoted:
                raise ConflictError(f"{version_name(version)} is promoted already", param="version")
            info = self._store.get(version)
            started = time.monotonic()
            self._tell("stage", version)
            name = await self.stage(version)
            report: ProofReport | None = None
            try:
                if prove_delivery and info.lineage is not None:
                    self._tell("verify", version)
                    report = await prove(self._client, name, info.lineage.proof, tolerance=self._proof_tolerance)
            except BaseException:
                await self.discard(version)
                raise
            self._tell("flip", version)
            old = self._flip(version)
            seconds = time.monotonic() - started
            await self._retire(old)
            return SwapReport(old, version, seconds, report)

    async def rollback(self) -> SwapReport:
        """Promotes the version that was promoted before.

        Raises:
            ConflictError: There is none.
        """
        previous = self._store.previous()
        if previous is None:
            raise ConflictError("nothing to roll back to: no version was promoted before this one")
        return await self.promote(previous)

    async def delete(self, version: int) -> None:
        """Deletes a version that is not promoted: unregistered and drained first, its files last."""
        async with self._changing:
            self._store.get(version)
            if version == self._promoted:
                raise ConflictError(f"{version_name(version)} is being served; promote another version first")
            await self._slots.unload(engine_name(version), self._drain_timeout_s)
            self._store.delete(version)

    def _flip(self, version: int) -> int:
        # The durable record first: a crash in between restarts with the new version, which is loaded and proven.
        old = self._promoted
        self._store.promote(version)
        self._promoted = version
        return old

    async def _retire(self, old: int) -> None:
        if old == 0:
            return
        name = engine_name(old)
        self._tell("drain", old)
        if not await self._slots.drain(name, self._drain_timeout_s):
            log.warning("%d requests still run on %s; it stays loaded for them", self._slots.in_flight(name), name)
            self._slots.mark_evictable(name)
            return
        self._tell("unload", old)
        await self._slots.unload(name)

    async def _load(self, version: int) -> None:
        name = engine_name(version)
        await self._slots.load(name, self._store.path(version))
        self._slots.keep(name)

    def _tell(self, stage: SwapStage, version: int) -> None:
        log.info("swap: %s %s", stage, engine_name(version))
        if self._on_stage is not None:
            self._on_stage(stage, version)
