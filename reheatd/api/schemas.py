"""What the admin API answers with, where it is not a contract that exists elsewhere."""

from pathlib import Path
from typing import Literal

from reheatd.adapters.store import VersionInfo
from reheatd.control.ledger import JournalEntry
from reheatd.control.states import State
from reheatd.entropy.detector import Verdict
from reheatd.entropy.live import LiveWindow
from reheatd.entropy.series import Window
from reheatd.jobs.contracts import Job
from reheatd.jobs.report import JobReport
from reheatd.measures import Contract, EntropyEstimate


class Readiness(Contract):
    status: str
    """`ready`, or what the daemon waits for, e.g. `starting`."""


class PromotedVersion(Contract):
    version: int
    name: str


class VersionView(VersionInfo):
    """`GET /reheatd/v1/adapters/VERSION`."""

    report: JobReport | None
    """How the policy changed; None for the base and for versions that no job made."""
    report_dir: Path | None
    """Where it lies with its plots, on the daemon's machine."""


class PartHealth(Contract):
    ok: bool
    detail: str
    """One line; empty when there is nothing to say."""


class EngineHealth(PartHealth):
    name: str
    url: str
    in_flight: int


class WorkersHealth(PartHealth):
    configured: int
    """Workers that the daemon starts itself."""
    connected: int | None
    """Workers that answer over the broker, local or not; None when the broker cannot be asked."""


class RequestTotals(Contract):
    total: int
    failed: int


class StatusView(Contract):
    """`GET /reheatd/v1/status`. Entropies in nats per token."""

    readiness: str
    """`ready`, or what the daemon waits for."""
    state: State
    mode: Literal["observe", "approve", "auto"]
    policy: str
    """The base model, as configured."""
    promoted: PromotedVersion
    verdict: Verdict | None
    """On the promoted version; None until a window of it was measured."""
    entropy: EntropyEstimate | None
    """Of the promoted version's newest window."""
    baseline: EntropyEstimate | None
    ratio: float | None
    """Entropy over baseline."""
    job: Job | None
    """The job that is being run."""
    queued: int
    """Jobs that wait, for their turn or for approval."""
    waiting: list[Job]
    """Those jobs, the next one first."""
    cooldown_remaining_s: float
    uptime_s: float
    engines: list[EngineHealth]
    broker: PartHealth
    workers: WorkersHealth
    adapters_loaded: list[str]
    """Names of the adapters that the engines hold, the least recently used first."""
    in_flight: int
    requests: RequestTotals


class EntropyView(Contract):
    """`GET /reheatd/v1/entropy`; nats per token."""

    baseline: EntropyEstimate | None
    threshold: float | None
    """A window whose upper confidence limit is below this is low."""
    windows: list[Window]
    """Oldest first."""


class LiveView(Contract):
    """`GET /reheatd/v1/entropy/live`: what the engine measured itself on every token; nats per token."""

    windows: list[LiveWindow]
    """Oldest first."""


class AdapterList(Contract):
    promoted: int
    adapters: list[VersionInfo]
    """Without proof items, which the single version's answer has."""


class PromotionView(Contract):
    """The answer to a promotion or rollback."""

    version: int
    name: str
    from_version: int
    seconds: float
    """From the start of staging to the flip."""
    proof: dict[str, float] | None
    """Figures of the proof of delivery; None for the base model."""


class JobList(Contract):
    jobs: list[Job]
    """Oldest first."""


class JournalView(Contract):
    entries: list[JournalEntry]
    """Oldest first."""


class RolloutAdapterRequest(Contract):
    path: str
    """Folder of the snapshot, inside the job's own."""
    step: int


class RolloutAdapterView(Contract):
    model: str
    """Name to sample from."""
