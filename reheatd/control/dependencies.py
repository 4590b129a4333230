"""The parts of the daemon that the control loop drives, each with the methods that the loop uses."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reheatd.adapters.lineage import Lineage, VersionInfo, VersionState
from reheatd.adapters.swap import SwapResult
from reheatd.config import Settings
from reheatd.control.ledger import Ledger
from reheatd.control.rollout_lengths import RolloutLengths
from reheatd.entropy.detector import Verdict
from reheatd.entropy.learning import LearningSignal
from reheatd.entropy.meter import Measurement
from reheatd.entropy.regime import Thresholds
from reheatd.entropy.windows import LiveWindow
from reheatd.jobs.contracts import ImportSpec, JobEvent, TrainingSpec
from reheatd.measures import EntropyEstimate
from reheatd.options import ProbeOptions


class Versions(Protocol):
    """The part of `AdapterStore` that the control loop uses."""

    async def publish(self, source: Path, report: Path | None = None, **lineage: Any) -> Lineage: ...
    def get(self, version: int) -> VersionInfo: ...
    def path(self, version: int) -> Path: ...
    def disk_bytes(self, version: int) -> int: ...
    def versions(self) -> list[int]: ...
    def previous(self) -> int | None: ...
    def list(self) -> list[VersionInfo]: ...
    def set_state(self, version: int, state: VersionState) -> None: ...


class Swaps(Protocol):
    """The part of `SwapManager` that the control loop uses."""

    @property
    def promoted(self) -> int: ...
    async def stage(self, version: int) -> str: ...
    async def discard(self, version: int) -> None: ...
    async def promote(self, version: int, *, without_engine: bool = False) -> SwapResult: ...
    async def rollback(self) -> SwapResult: ...
    async def delete(self, version: int) -> None: ...


class Slots(Protocol):
    """The part of `AdapterSlots` that the control loop uses."""

    async def load(self, name: str, path: Path) -> None: ...
    async def unload(self, name: str) -> None: ...
    def is_loaded(self, name: str) -> bool: ...


class Monitor(Protocol):
    """The part of `EntropyMonitor` that the control loop uses."""

    @property
    def baseline(self) -> EntropyEstimate | None: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def verdict(self) -> Verdict | None: ...
    @property
    def is_undecided(self) -> bool: ...
    @property
    def thresholds(self) -> Thresholds | None: ...
    async def ensure_baseline(self) -> EntropyEstimate: ...
    async def probe_options(self) -> ProbeOptions: ...
    async def measure_version(self, name: str) -> Measurement: ...
    def adopt(self, version: int, measurement: Measurement) -> None: ...
    def latest_estimate(self, version: int) -> EntropyEstimate | None: ...
    def trigger(self) -> None: ...


class Dispatcher(Protocol):
    """The part of `JobDispatcher` that the control loop uses."""

    async def submit(self, spec: TrainingSpec | ImportSpec, attempt: int = 1) -> None: ...
    async def cancel(self, job_id: str) -> None: ...
    async def terminate(self, job_id: str, attempt: int = 1) -> None: ...
    async def connected_workers(self) -> int: ...
    async def is_under_way(self, job_id: str, attempt: int) -> bool: ...
    def events(
        self,
        job_id: str,
        after_id: str = "0",
        *,
        attempt: int = 1,
        begun: bool = False,
        workers_since: float | None = None,
    ) -> AsyncIterator[tuple[str, JobEvent]]: ...


@dataclass(frozen=True)
class ServedPolicy:
    """The base model of this daemon's policy."""

    name: str
    """Name that the user gave in `settings.policy.model`."""
    path: Path
    """Folder of the model's files."""
    digest: str
    """`base_digest` of that folder."""
    vocabulary: int
    """Number of the model's logits."""


@dataclass(frozen=True)
class Dependencies:
    """Everything that the control loop needs to run jobs."""

    settings: Settings
    policy: ServedPolicy
    gateway_url: str
    """URL at which workers reach the gateway."""
    ledger: Ledger
    versions: Versions
    swaps: Swaps
    slots: Slots
    monitor: Monitor
    learning: LearningSignal
    lengths: RolloutLengths
    dispatcher: Dispatcher
    on_rollouts: Callable[[LiveWindow], None]
    """Records the entropy that a job measured of its own rollouts."""
    validate: Callable[[Path], None]
    """Raises `AdapterInvalidError` if the adapter in a folder does not fit the policy; runs in a thread."""
    started_at: float = field(default_factory=time.time)
    """When the daemon was started, in seconds since the epoch; its own workers were started later."""
    swap_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the promoted version changes, so that a job never overrules a user's promotion that it did not see."""
