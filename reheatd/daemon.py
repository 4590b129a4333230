"""The daemon: it starts its parts in order, keeps them running and stops them in order. `reheatd.serve` builds them."""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from reheatd.access.keys import KeyRing
from reheatd.access.uses import write_uses
from reheatd.adapters.swap import SwapManager
from reheatd.alerts.alerter import Alerter
from reheatd.broker_url import broker_address
from reheatd.config import Settings
from reheatd.control.controller import Controller
from reheatd.control.events import EventHub
from reheatd.dashboard.dashboard import Dashboard
from reheatd.engine.keeper import EngineKeeper
from reheatd.engine.pool import EnginePool
from reheatd.engine.slots import AdapterSlots
from reheatd.entropy.live import LiveSeries, TapListener, close_windows_every
from reheatd.entropy.monitor import EntropyMonitor
from reheatd.errors import EngineError, ReheatdError
from reheatd.gateway.app import Gateway
from reheatd.jobs.dispatch import JobDispatcher
from reheatd.names import version_name
from reheatd.plan.gpu_plan import GpuPlan
from reheatd.process.broker import wait_for_broker
from reheatd.process.http_server import HttpServer
from reheatd.process.instance import write_daemon_file
from reheatd.process.supervisor import Child, Command, Supervisor
from reheatd.process.worker_command import worker_command
from reheatd.reference.measurement import ReferenceMeasurement
from reheatd.tracing.setup import Tracing

logger = logging.getLogger(__name__)

RETRY_S = 10.0
"""Pause before a part of the daemon that failed unexpectedly is started again."""


class StartError(ReheatdError, RuntimeError):
    """A part that the daemon needs did not start.

    What to do: The message names the part and why it did not start; its log is in logs/ in the data folder.
    `reheatd doctor` checks the machine.
    """

    code = "start_failed"
    exit_code = 2


@dataclass
class Readiness:
    """What `/health` says: `ready` once a token can be generated, and before that what the daemon waits for."""

    state: str = "starting"
    pool: EnginePool | None = None
    """The engines, once they are known."""

    def report(self, doing: str) -> None:
        """Notes what is being done before the server is ready."""
        self.state = f"starting: {doing}"

    def __call__(self) -> str:
        if self.state == "ready" and self.pool is not None and not self.pool.serving():
            return "no engine serves at the moment"
        return self.state


@dataclass(frozen=True)
class Parts:
    """The parts that the daemon starts, runs and stops."""

    url: str
    """URL of the gateway."""
    admin_url: str
    """URL of the admin API; the same unless it has a port of its own."""
    readiness: Readiness
    supervisor: Supervisor
    broker_url: str
    """URL of the broker. It may hold a password, so log its `broker_address` instead."""
    broker_command: Command | None
    """Command that starts the embedded broker; None if another broker is used."""
    tap_listener: TapListener | None
    """What the engines' entropy taps send to; None if they have none."""
    reference: ReferenceMeasurement | None
    """The measurement of the baseline, if that is the entropy of a reference and was not measured yet."""
    pool: EnginePool
    engines: EngineKeeper
    slots: AdapterSlots
    swaps: SwapManager
    monitor: EntropyMonitor
    live: LiveSeries
    gateway: Gateway
    dispatcher: JobDispatcher
    controller: Controller
    events: EventHub
    alerter: Alerter | None
    """What tells the webhooks; None if none is configured."""
    trackers: list[Command]
    """Commands that start the trackers of jobs."""
    keys: KeyRing
    dashboard: Dashboard
    http: HttpServer
    tracing: Tracing | None
    """What makes and sends spans; None if nothing is traced."""
    gpus: GpuPlan | None
    """What engines and workers get of the GPUs; None on a CPU."""


class Daemon:
    """Runs the parts. Broker, engines and workers are child processes; the other parts run in this process."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self._settings = settings
        self._parts = parts
        self._started = time.monotonic()
        self._background: list[asyncio.Task[None]] = []
        self._broker: Child | None = None
        self._workers: list[Child] = []

    async def run(self, on_ready: Callable[[dict[str, Any]], None] | None) -> None:
        """Starts everything, runs until a signal, and stops everything, even if starting fails."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, stopped)
        running = asyncio.create_task(self._start_and_run(on_ready), name="daemon")
        stopping = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            for task in (running, stopping, *self._background):
                task.cancel()
            await asyncio.gather(running, stopping, *self._background, return_exceptions=True)
            await self._stop()

    async def _start_and_run(self, on_ready: Callable[[dict[str, Any]], None] | None) -> None:
        settings, parts = self._settings, self._parts
        if parts.broker_command is not None:
            self._broker = await parts.supervisor.start(parts.broker_command)
            await self._broker.ready_when(wait_for_broker(parts.broker_url))
            self._broker.keep_running()
        else:
            await wait_for_broker(parts.broker_url)
        logger.info("broker ready at %s", broker_address(parts.broker_url))
        await parts.swaps.restore()
        # Workers are started before the engines, so that both import their code at the same time. If a job from before
        # a restart is to be resumed, they are started after the engines, because its worker needs an engine at once.
        resumes = parts.controller.current_job is not None
        if not resumes:
            await self._start_workers()
        await self._start_engines()
        if resumes:
            await self._start_workers()
        write_daemon_file(settings.data_dir / "daemon.json", parts.url)
        # The objects that exist now stay. Searching them for garbage, as Python does every few hundred requests, would
        # delay all streams by 60 ms each time.
        gc.collect()
        gc.freeze()
        parts.readiness.state = "ready"
        logger.info(
            "serving %s at %s, ready in %.0f s",
            version_name(parts.swaps.promoted),
            parts.url,
            time.monotonic() - self._started,
        )
        if on_ready is not None:
            on_ready({"url": parts.url, "admin_url": parts.admin_url, "pid": os.getpid()})
        self._in_background("entropy monitor", parts.monitor.run)
        self._in_background("live entropy", partial(close_windows_every, settings.entropy.interval_s, parts.live))
        self._in_background("uses of keys", partial(write_uses, settings.database_path, parts.keys))
        self._in_background("dashboard", parts.dashboard.run)
        self._in_background("rotation of logs", parts.supervisor.rotate_logs)
        if parts.tap_listener is not None:
            self._in_background("entropy tap", partial(parts.tap_listener.run, parts.live))
        if parts.alerter is not None:
            self._in_background("alerts", parts.alerter.run)
        for command in parts.trackers:
            self._in_background(command.name, partial(self._run_tracker, command))
        self._in_background("control loop", parts.controller.run)
        if not parts.engines.are_children:
            self._in_background("engine watch", parts.engines.watch)
        await parts.http.wait()

    async def _start_workers(self) -> None:
        gpus = self._parts.gpus
        for index in range(1, self._settings.workers.count + 1):
            gpu = gpus.workers[index - 1] if gpus is not None and gpus.workers else None
            command = worker_command(
                self._parts.broker_url, self._settings.workers, self._settings.tracing, index=index, gpu=gpu
            )
            child = await self._parts.supervisor.start(command)
            child.keep_running()
            self._workers.append(child)

    async def _run_tracker(self, command: Command) -> None:
        tracker = await self._parts.supervisor.start(command)
        tracker.keep_running()
        await asyncio.Event().wait()  # nothing waits for a tracker

    async def _start_engines(self) -> None:
        """Waits until an engine has generated a token and holds the promoted version."""
        parts = self._parts
        try:
            if parts.reference is not None:
                parts.readiness.report("measuring the entropy of the reference")
                await parts.reference.run(parts.supervisor)
            parts.readiness.report("waiting for the engine")
            await parts.engines.start()
        except EngineError as error:
            raise StartError(error.message) from error

    def _in_background(self, name: str, part: Callable[[], Awaitable[None]]) -> None:
        self._background.append(asyncio.create_task(keep_going(name, part), name=name))

    def _on_signal(self, stopped: asyncio.Event) -> None:
        if stopped.is_set():
            self._parts.http.hurry()
        stopped.set()

    async def _stop(self) -> None:
        parts = self._parts
        in_flight = parts.slots.in_flight()
        logger.info("stopping" + (f": waiting for {in_flight} requests" if in_flight else ""))
        parts.readiness.state = "stopping"
        parts.events.close()  # those who follow would never end by themselves
        parts.dashboard.close()
        # A job's rollouts are requests too, so its worker is stopped at once; otherwise the drain would wait for it.
        workers = asyncio.gather(*(worker.stop() for worker in self._workers))
        try:
            await parts.http.drain()
        finally:
            await parts.supervisor.stop_all(last=self._broker)
            await workers
            for part in (parts.gateway, parts.pool, parts.dispatcher):
                await part.close()
            if parts.tap_listener is not None:
                parts.tap_listener.close()
            if parts.tracing is not None:
                await asyncio.to_thread(parts.tracing.close)
        (self._settings.data_dir / "daemon.json").unlink(missing_ok=True)
        logger.info("stopped")


async def keep_going(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Runs a part that serving does not need. If it fails, the failure is logged and the part is started again."""
    while True:
        try:
            await part()
        except Exception:
            logger.exception("the %s failed; it is started again in %.0f s", name, RETRY_S)
        await asyncio.sleep(RETRY_S)
