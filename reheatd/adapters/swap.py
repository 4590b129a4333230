"""The hot-swap protocol: stage, verify, flip, drain and unload, undone if anything fails before the flip.

Each step before the flip is taken on every engine that serves. A request for the alias goes to the version that is
promoted when it arrives, and stays with that version until it ends. A failure before the flip leaves the old version
serving on all engines. After the flip, the durable record and the alias agree, whatever happens.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from reheatd.adapters.evidence import Proof
from reheatd.adapters.lineage import ProofItem
from reheatd.adapters.proof import Proving, prove
from reheatd.adapters.store import AdapterStore
from reheatd.engine.pool import EnginePool, Replica
from reheatd.engine.slots import AdapterSlots
from reheatd.errors import (
    AdapterInvalidError,
    ConflictError,
    DeliveryError,
    EngineError,
    EngineUnavailableError,
    ModelNotFoundError,
    NotFoundError,
    ReheatdError,
)
from reheatd.names import ALIAS_NAME, model_name, parse_version_name, version_name

log = logging.getLogger(__name__)

READMISSION_LENIENCY = 1.5
"""Leniency of the proof for an engine that comes back. Another run rounds differently, and a version that
passed narrowly must not keep a restarted engine out."""

REFUSALS = 3
"""How often an engine that serves alone must refuse the promoted version before the one before it takes its place."""
REFUSED_PAUSE_S = 2.0

SwapStage = Literal["stage", "verify", "flip", "drain"]


@dataclass(frozen=True)
class SwapResult:
    """One finished swap."""

    from_version: int
    to_version: int
    seconds: float
    """Time from the start of staging to the flip."""
    proof: Proof | None
    proof_seconds: float = 0.0
    """Time from the loaded version to its proof on every engine; 0 without a proof."""


class SwapManager:
    """Decides which version the alias means, and changes that safely, one change at a time.

    Args:
        proof_tolerance: See `prove`.
        drain_timeout_s: Longest wait for requests on the version that is replaced. If they take longer, that version
            stays loaded and is unloaded when its slot is needed.
        on_stage: Called with each step of a swap as it begins.
    """

    def __init__(
        self,
        store: AdapterStore,
        slots: AdapterSlots,
        pool: EnginePool,
        *,
        proof_tolerance: float,
        drain_timeout_s: float,
        on_stage: Callable[[SwapStage, int], None] | None = None,
    ) -> None:
        self._store = store
        self._slots = slots
        self._pool = pool
        self._proof_tolerance = proof_tolerance
        self._drain_timeout_s = drain_timeout_s
        self._on_stage = on_stage
        self.on_flip: Callable[[SwapResult], None] | None = None
        """Called once the alias has been flipped, before the wait for requests on the old version."""
        self.on_refusal: Callable[[ReheatdError], None] | None = None
        """Called with the error of a swap that failed before the flip."""
        self.on_fallback: Callable[[int, str], None] | None = None
        """Called with the version that has taken the promoted one's place, and why, if that one cannot be served."""
        self._promoted = store.promoted()
        self._staged: set[int] = set()
        self._changing = asyncio.Lock()

    @property
    def promoted(self) -> int:
        """The version that the alias means."""
        return self._promoted

    def model_for(self, name: str) -> str:
        """The engine's name for the model that a client asks for: the alias, a version or a job's rollout adapter.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        if name == ALIAS_NAME:
            return model_name(self._promoted)
        version = parse_version_name(name)
        if version is None:
            version = self._store.version_in(name)
        if version is not None and version in self._store.versions():
            return model_name(version)
        if self._slots.is_loaded(name):
            return name
        raise ModelNotFoundError(f"model {name!r} does not exist; GET /v1/models lists those that do", param="model")

    async def restore(self) -> None:
        """Arranges that every engine loads the promoted version before it is admitted; called while none serves.

        If the files of the promoted version were lost or changed, the version that was promoted before takes its place,
        because that is better than not serving at all.
        """
        while version := self._promoted:
            try:
                path = await self._store.intact_path(version)
            except (AdapterInvalidError, NotFoundError) as error:
                self._fall_back("lost", error)
            else:
                self._slots.expect(model_name(version), path)
                return

    async def admit(self, replica: Replica) -> None:
        """Lets an engine that has started take requests once it answers with the promoted version as trained.

        A swap that is under way ends first, so that each engine takes part in all of a swap or in none of it. If no
        other engine serves, the promoted version's files are looked at again, as at the start; if the engine refuses
        that version again and again, the one that was promoted before it takes its place.

        Raises:
            AdapterInvalidError, DeliveryError: The engine does not serve what the others serve.
            EngineTakenError: The engine serves another daemon.
            EngineError: The engine cannot be reached.
        """
        async with self._changing:
            while True:
                try:
                    async for attempt in AsyncRetrying(
                        retry=retry_if_exception_type((AdapterInvalidError, DeliveryError)),
                        stop=stop_after_attempt(1 if self._pool.serving() else REFUSALS),
                        wait=wait_fixed(REFUSED_PAUSE_S),
                        reraise=True,
                    ):
                        with attempt:
                            if not self._pool.serving():
                                await self.restore()
                            await self._slots.admit(replica, lambda: self._verify_promoted(replica))
                    return
                except (AdapterInvalidError, DeliveryError) as error:
                    if self._pool.serving() or not self._promoted:
                        raise
                    self._fall_back("rejected", error)

    async def _verify_promoted(self, replica: Replica) -> None:
        version = self._promoted
        if not version:
            return
        name = model_name(version)
        if not self._slots.is_loaded(name):
            raise AdapterInvalidError(f"{replica.name} refuses {name}, which is promoted; promote another version")
        lineage = self._store.get(version).lineage
        if lineage is not None and lineage.proof:
            await prove(
                replica.client,
                self._slots.engine_name(name),
                lineage.proof,
                tolerance=self._proof_tolerance,
                leniency=READMISSION_LENIENCY,
            )

    async def stage(self, version: int) -> str:
        """Loads `version` under its own name, beside the version that serves, and returns that name.

        Raises:
            NotFoundError: There is no such version.
            AdapterInvalidError: Its files were lost or changed, or the engine refuses them.
            ConflictError: No adapter slot is free.
            EngineError: The engine cannot be reached.
        """
        if version:
            await self._load(version)
            self._staged.add(version)
        return model_name(version)

    async def discard(self, version: int) -> None:
        """Unloads a staged version that will not be promoted; if requests still run on it, it is unloaded later."""
        self._staged.discard(version)
        if version and version != self._promoted:
            await self._give_up(model_name(version))

    async def load_on_demand(self, name: str) -> None:
        """Loads the version that a request pins by `name`; it stays until its slot is needed for something else.

        Raises:
            ModelNotFoundError: There is no such version.
            AdapterInvalidError, ConflictError, EngineError: As for `stage`.
        """
        version = parse_version_name(name)
        if not version:
            raise ModelNotFoundError(f"model {name!r} does not exist any more", param="model")
        await self._slots.load(name, await self._store.intact_path(version))
        if version != self._promoted and version not in self._staged:
            self._slots.mark_evictable(name)

    async def promote(self, version: int, *, prove_delivery: bool = True, without_engine: bool = False) -> SwapResult:
        """Makes `version` the one that the alias means.

        Args:
            prove_delivery: Whether the adapter's proof items are scored through the engine before the flip.
            without_engine: Whether to flip even if no engine serves. The version is then loaded and proven when one is
                admitted.

        Raises:
            ConflictError: The version is promoted already.
            DeliveryError, EngineError, AdapterInvalidError: A step before the flip failed; the old version keeps
                serving and the new one is unloaded.
        """
        async with self._changing:
            if version == self._promoted:
                raise ConflictError(f"{version_name(version)} is promoted already", param="version")
            try:
                result = await self._replace_promoted(version, prove_delivery, without_engine)
            except ReheatdError as error:
                if self.on_refusal is not None:
                    self.on_refusal(error)
                raise
            if self.on_flip is not None:
                self.on_flip(result)
            if result.from_version:
                self._tell("drain", result.from_version)
                await self._give_up(model_name(result.from_version))
            return result

    async def _replace_promoted(self, version: int, prove_delivery: bool, without_engine: bool) -> SwapResult:
        """Everything up to the flip."""
        info = self._store.get(version)
        started = time.monotonic()
        if without_engine and not self._pool.serving():
            if version:
                await self._store.intact_path(version)
            return SwapResult(self._flip(version), version, time.monotonic() - started, None)
        self._tell("stage", version)
        proving: dict[Replica, Proving] | None = None
        if prove_delivery and info.lineage is not None:
            proving = self._begin_proofs(model_name(version), info.lineage.proof)
        try:
            name = await self.stage(version)
        except BaseException:
            for each in (proving or {}).values():
                each.cancel()
            raise
        proof, loaded = None, time.monotonic()
        try:
            if proving is not None:
                self._tell("verify", version)
                proof = await self._prove(name, proving)
            proved = time.monotonic()
            self._tell("flip", version)
            old = self._flip(version)
        except BaseException:
            await self.discard(version)
            raise
        return SwapResult(old, version, time.monotonic() - started, proof, proved - loaded if proof else 0.0)

    def _begin_proofs(self, name: str, items: list[ProofItem]) -> dict[Replica, Proving]:
        """Begins the proof on every engine, which asks what it can while the engine loads the adapter."""
        tolerance = self._proof_tolerance
        return {replica: Proving(replica.client, name, items, tolerance=tolerance) for replica in self._pool.serving()}

    async def _prove(self, name: str, proving: dict[Replica, Proving]) -> Proof:
        """Proves the delivery on every engine, and returns the proof of the engine furthest from the trainer."""
        # Those that failed to load the adapter serve no more.
        replicas = [replica for replica in self._pool.serving() if replica in proving]
        loaded = self._slots.engine_name(name)
        results = await asyncio.gather(
            *(proving[replica].finish(loaded) for replica in replicas), return_exceptions=True
        )
        proofs: list[Proof] = []
        for replica, result in zip(replicas, results, strict=True):
            if isinstance(result, BaseException):
                log.error("the delivery of %s to %s is not proven: %s", name, replica.name, result)
                raise result
            proofs.append(result)
        if not proofs:
            raise EngineUnavailableError(f"no engine is left to prove {name} on; try again in a few seconds")
        return max(proofs, key=lambda proof: proof.mean_difference)

    async def rollback(self) -> SwapResult:
        """Promotes the version that was promoted before, without a proof if it has no proof items or no engine serves.

        Raises:
            ConflictError: No version was promoted before.
            DeliveryError, EngineError, AdapterInvalidError: As for `promote`.
        """
        previous = self._store.previous()
        if previous is None:
            raise ConflictError("nothing to roll back to: no version was promoted before this one")
        lineage = self._store.get(previous).lineage
        proof = bool(lineage and lineage.proof)
        return await self.promote(previous, prove_delivery=proof, without_engine=True)

    async def delete(self, version: int) -> None:
        """Deletes a version that is neither promoted nor staged.

        It is drained and unregistered first; its files are deleted last.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: The version is promoted or staged, or requests still run on it.
            EngineError: The engine cannot be reached.
        """
        async with self._changing:
            self._store.get(version)
            name = version_name(version)
            if version in (0, self._promoted) or version in self._staged:
                raise ConflictError(f"{name} is being served; promote another version first", param="version")
            await self._slots.unload(name, self._drain_timeout_s)
            if self._slots.is_loaded(name):
                raise ConflictError(f"a request for {name} came in; delete it when nobody uses it", param="version")
            # No await from here on: a request that still waits for this version finds that it does not exist any more.
            self._store.delete(version)

    def _fall_back(self, state: Literal["lost", "rejected"], error: ReheatdError) -> None:
        """Replaces the promoted version, which cannot be served, by the one before it."""
        version = self._promoted
        if version in self._store.versions():
            self._store.set_state(version, state)
        fallback = self._store.previous() or 0
        reason = f"{error.message}; {version_name(fallback)} is served in its place"
        log.error("%s", reason)
        self._flip(fallback)
        if self.on_fallback is not None:
            self.on_fallback(fallback, reason)

    def _flip(self, version: int) -> int:
        # The durable record comes first: after a crash in between, the daemon starts with the new version, which is
        # proven.
        old = self._promoted
        self._store.promote(version)
        self._promoted = version
        self._staged.discard(version)
        return old

    async def _give_up(self, name: str) -> None:
        """Drains and unregisters an adapter; if that is not possible now, its slot is freed when it is needed."""
        try:
            await self._slots.unload(name, self._drain_timeout_s)
        except (ConflictError, EngineError) as error:
            log.warning("%s stays loaded for now: %s", name, error)
            self._slots.mark_evictable(name)

    async def _load(self, version: int) -> None:
        name = model_name(version)
        await self._slots.load(name, await self._store.intact_path(version))
        self._slots.keep(name)

    def _tell(self, stage: SwapStage, version: int) -> None:
        log.info("swap: %s %s", stage, model_name(version))
        if self._on_stage is not None:
            self._on_stage(stage, version)
