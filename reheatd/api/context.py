"""What the admin API asks: the parts of the daemon."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from reheatd.adapters.store import AdapterStore
from reheatd.config import Settings
from reheatd.control.controller import Controller
from reheatd.control.events import EventHub
from reheatd.control.imports import Imports
from reheatd.control.ledger import Ledger
from reheatd.engine.pool import EnginePool
from reheatd.engine.slots import AdapterSlots
from reheatd.entropy.learning import LearningSignal
from reheatd.entropy.live import LiveSeries
from reheatd.entropy.monitor import EntropyMonitor
from reheatd.entropy.series import EntropySeries
from reheatd.gateway.app import RequestCounts
from reheatd.jobs.dispatch import JobDispatcher
from reheatd.metrics.recent import Recent


@dataclass(frozen=True)
class ApiContext:
    """The parts of the daemon that the routes ask.

    `readiness` says `ready` once a token can be generated, and before that what the daemon waits for. `broker_healthy`
    asks the broker now.
    """

    settings: Settings
    controller: Controller
    imports: Imports
    ledger: Ledger
    versions: AdapterStore
    slots: AdapterSlots
    pool: EnginePool
    monitor: EntropyMonitor
    series: EntropySeries
    learning: LearningSignal
    live: LiveSeries
    events: EventHub
    dispatcher: JobDispatcher
    requests: RequestCounts
    recent: Recent
    metrics: CollectorRegistry
    """What is counted as it happens, for Prometheus."""
    readiness: Callable[[], str]
    broker_healthy: Callable[[], Awaitable[bool]]
    started_at: float
    """Time at which the daemon was started, by `time.monotonic`, since a clock may be set back."""
