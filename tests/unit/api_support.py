"""The admin API on a real controller with stand-ins behind it."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import httpx
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from reheatd.api.context import ApiContext
from reheatd.api.errors import exception_handlers
from reheatd.api.routes import api_routes
from reheatd.control.imports import Imports
from reheatd.engine.slots import AdapterSlots
from reheatd.entropy.estimators import TailMoments
from reheatd.entropy.live import LiveSeries
from reheatd.entropy.monitor import EntropyMonitor
from reheatd.entropy.series import EntropySeries
from reheatd.entropy.windows import MeasurementProgress, Window
from reheatd.gateway.app import RequestCounts
from reheatd.jobs.dead_letters import DeadLetter
from reheatd.jobs.dispatch import JobDispatcher
from reheatd.metrics.recent import Recent
from reheatd.process.broker import BrokerError
from tests.serving_pool import pool_of
from tests.unit.control_figures import BASELINE, entropy, window
from tests.unit.control_support import FakeMonitor, World

Client = httpx.AsyncClient


class ApiWorld(World):
    """A world with the API in front."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        super().__init__(folder, **sections)
        self.ready = "ready"
        self.counts = RequestCounts(total=7, failed=1)
        self.registry = CollectorRegistry()
        self.series = EntropySeries(self.db, "key")
        self.census: int | BrokerError = 0
        self.dead_letters: list[DeadLetter] = []
        self.pool = pool_of(_Engine(), _Engine())

    def app(self) -> Starlette:
        return Starlette(routes=api_routes(self.context()), exception_handlers=exception_handlers())

    def context(self) -> ApiContext:
        self.live = LiveSeries(self.db, confidence=0.95)
        return ApiContext(
            settings=self.settings,
            controller=self.controller,
            imports=Imports(self.settings, self.policy, self.controller),
            ledger=self.ledger,
            versions=self.store,
            slots=AdapterSlots(self.pool, 4),
            pool=self.pool,
            monitor=cast(EntropyMonitor, _Monitor(self)),
            series=self.series,
            learning=self.learning,
            live=self.live,
            events=self.events,
            dispatcher=cast(JobDispatcher, _Census(self)),
            requests=self.counts,
            recent=Recent(),
            metrics=self.registry,
            readiness=lambda: self.ready,
            broker_healthy=_no,
            started_at=time.monotonic() - 5,
        )


class _Engine:
    base_url = "http://engine"

    async def is_healthy(self) -> bool:
        return True


class _Monitor:
    verdict = "warning"
    baseline = entropy(BASELINE)
    thresholds = FakeMonitor().thresholds
    max_tokens = 64
    progress = MeasurementProgress(model="policy-v0", done=12, of=40)
    problem = "the model has no chat template"
    next_at = None

    def __init__(self, world: ApiWorld) -> None:
        self._world = world

    async def window_now(self) -> Window:
        taken = window(0, "ok", 1.9)
        self._world.series.append(taken, TailMoments())
        return taken


class _Census:
    def __init__(self, world: ApiWorld) -> None:
        self._world = world

    async def connected_workers(self, max_age_s: float) -> int:
        if isinstance(self._world.census, BrokerError):
            raise self._world.census
        return self._world.census

    async def dead_letters(self) -> list[DeadLetter]:
        if isinstance(self._world.census, BrokerError):
            raise self._world.census
        return self._world.dead_letters


async def _no() -> bool:
    return False


def talk(world: ApiWorld, story: Callable[[Client, ApiWorld], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        transport = httpx.ASGITransport(world.app(), raise_app_exceptions=False)
        async with world, Client(transport=transport, base_url="http://daemon") as client:
            await story(client, world)

    asyncio.run(run())


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
