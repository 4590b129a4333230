"""The daemon: claims what it needs, starts the parts in order, keeps them running, stops them in order."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from starlette.applications import Starlette

from reheatd.adapters.store import AdapterStore
from reheatd.adapters.swap import SwapManager
from reheatd.adapters.validate import base_digest, validate_adapter
from reheatd.api.errors import exception_handlers
from reheatd.api.routes import ApiContext, api_routes
from reheatd.config import Settings
from reheatd.control.controller import Controller
from reheatd.control.dependencies import Dependencies, ServedPolicy
from reheatd.control.ledger import Ledger
from reheatd.control.specs import check_request
from reheatd.database import connect
from reheatd.engine.keeper import EngineKeeper
from reheatd.engine.launch import Device, detect_device, engine_command, taps
from reheatd.engine.policy_model import resolve_policy
from reheatd.engine.pool import EnginePool, Replica
from reheatd.engine.probe_client import ProbeClient
from reheatd.engine.slots import AdapterSlots
from reheatd.entropy.detector import CollapseDetector
from reheatd.entropy.live import LiveSeries, TapListener, close_windows_every, tap_socket
from reheatd.entropy.meter import EntropyMeter, vocabulary_size
from reheatd.entropy.monitor import EntropyMonitor
from reheatd.entropy.probes import load_probes
from reheatd.entropy.series import EntropySeries, series_key
from reheatd.errors import ConfigError, EngineError, ReheatdError
from reheatd.extras import require_engine_extra, require_worker_extra
from reheatd.gateway.app import Gateway
from reheatd.gateway.live_logprobs import LiveLogprobs
from reheatd.jobs.contracts import ReheatRequest
from reheatd.jobs.dispatch import JobDispatcher
from reheatd.names import engine_name, version_name
from reheatd.process.broker import address, embedded_broker, ping, wait_for_broker
from reheatd.process.http_server import HttpServer
from reheatd.process.instance import claim_data_dir, listen, url_of, write_daemon_file
from reheatd.process.ports import reserve_port
from reheatd.process.supervisor import Child, Command, Supervisor
from reheatd.process.worker_command import worker_command

logger = logging.getLogger(__name__)

ENGINE_GRACE_S = 10.0
RETRY_S = 10.0
"""Pause before a part of the daemon that failed unexpectedly is started again."""


class StartError(ReheatdError, RuntimeError):
    """A part that the daemon needs did not come up."""

    code = "start_failed"
    exit_code = 2


async def serve(settings: Settings, on_ready: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Runs the daemon until SIGTERM or SIGINT, then drains and stops every child.

    Args:
        on_ready: Called once a token can be generated, with the daemon's `url` and `pid`.

    Raises:
        ReheatdError: It cannot start; nothing is left running.
    """
    configure_logging()
    device = detect_device() if settings.engine.device == "auto" else settings.engine.device
    if settings.engine.url is None:
        require_engine_extra(device)
    if settings.workers.count:
        require_worker_extra()
    with listen(settings.server.host, settings.server.port) as listener:
        model_path = await asyncio.to_thread(resolve_policy, settings.policy.model)
        digest = await asyncio.to_thread(base_digest, model_path)
        lock = await claim_data_dir(settings.data_dir)
        try:
            with closing(connect(settings.database_path)) as db:
                policy = ServedPolicy(settings.policy.model, model_path, digest, vocabulary_size(model_path))
                check_request(ReheatRequest(), settings, vocabulary=policy.vocabulary)
                await Daemon(settings, device, policy, listener, lock, db).run(on_ready)
        finally:
            os.close(lock)


class Daemon:
    """All parts of one daemon. Where they run: broker, engine and workers are children, the rest is this process."""

    def __init__(
        self,
        settings: Settings,
        device: Device,
        policy: ServedPolicy,
        listener: socket.socket,
        lock: int,
        db: sqlite3.Connection,
    ) -> None:
        self._settings = settings
        self._started = time.monotonic()
        self._readiness = "starting"
        self._supervisor = Supervisor(settings.logs_dir, inherited=(lock,))
        self._background: list[asyncio.Task[None]] = []
        self._workers: list[Child] = []
        self.url = url_of(settings.server.host, listener.getsockname()[1])

        if settings.broker.url is None:
            self._broker = embedded_broker(settings.broker_dir)
            self._broker_url = self._broker.url
        else:
            self._broker = None
            self._broker_url = settings.broker.url
        engine = settings.engine
        tapped = settings.entropy.tap != "off" if engine.url else taps(settings, device)
        self._tap_socket = _listen_to_taps(settings.entropy.tap_address) if tapped else None
        tap_address = "{}:{}".format(*self._tap_socket.getsockname()[:2]) if self._tap_socket else None
        replicas, commands = _engines(settings, policy, device, tap_address)
        self._pool = EnginePool(replicas)

        store = AdapterStore(settings.adapters_dir, db)
        self._slots = AdapterSlots(self._pool, engine.max_loras)
        self._swaps = SwapManager(
            store,
            self._slots,
            self._pool,
            proof_tolerance=settings.gate.proof_tolerance,
            drain_timeout_s=settings.server.drain_timeout_s,
        )
        self._engines = EngineKeeper(
            self._pool, self._supervisor, commands, self._swaps.admit, startup_timeout_s=engine.startup_timeout_s
        )
        series, self._monitor = build_monitor(settings, policy, db, ProbeClient(self._pool, self._slots), self._swaps)
        self._live = live = LiveSeries(db, confidence=settings.entropy.confidence)
        live_logprobs = None
        if settings.entropy.live_fraction:
            live_logprobs = LiveLogprobs(
                live,
                fraction=settings.entropy.live_fraction,
                top_k=settings.entropy.top_k,
                vocab_size=policy.vocabulary,
                tail_model=lambda: series.tail_moments().fit(),
            )
        self._gateway = Gateway(
            self._pool,
            self._slots,
            self._swaps,
            store,
            live_logprobs,
            max_concurrent_per_key=settings.server.max_concurrent_per_key,
            silence_timeout_s=settings.server.silence_timeout_s,
        )
        self._tap = None
        if self._tap_socket is not None:
            self._tap = TapListener(live, self._tap_socket)
        self._dispatcher = JobDispatcher(self._broker_url, heartbeat_timeout_s=settings.control.heartbeat_timeout_s)
        parts = Dependencies(
            settings=settings,
            policy=policy,
            gateway_url=settings.server.public_url or self.url,
            ledger=Ledger(db),
            versions=store,
            swaps=self._swaps,
            slots=self._slots,
            monitor=self._monitor,
            dispatcher=self._dispatcher,
            validate=lambda folder: validate_adapter(folder, policy.path, max_rank=engine.max_lora_rank),
        )
        self._controller = Controller(parts)
        self._monitor.on_verdict = self._controller.on_verdict
        self._swaps.on_flip = self._monitor.give_up_outdated
        context = ApiContext(
            settings=settings,
            controller=self._controller,
            ledger=parts.ledger,
            versions=store,
            slots=self._slots,
            pool=self._pool,
            monitor=self._monitor,
            series=series,
            live=live,
            dispatcher=self._dispatcher,
            requests=self._gateway.counts,
            readiness=self._ready,
            broker_healthy=lambda: ping(self._broker_url),
            started_at=time.time(),
        )
        app = Starlette(routes=[*self._gateway.routes(), *api_routes(context)], exception_handlers=exception_handlers())
        self._http = HttpServer(app, listener, drain_timeout_s=settings.server.drain_timeout_s)

    async def run(self, on_ready: Callable[[dict[str, Any]], None] | None) -> None:
        """Starts everything, runs until a signal, stops everything; also when starting fails."""
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
        settings = self._settings
        self._http.start()
        if self._broker is not None:
            child = await self._supervisor.start(self._broker.command)
            await child.ready_when(wait_for_broker(self._broker_url))
            child.keep_running()
        else:
            await wait_for_broker(self._broker_url)
        logger.info("broker ready at %s", address(self._broker_url))
        await self._swaps.restore()
        await self._start_engines()
        for index in range(1, settings.workers.count + 1):
            command = worker_command(self._broker_url, settings.workers, index=index)
            child = await self._supervisor.start(command)
            child.keep_running()
            self._workers.append(child)
        write_daemon_file(settings.data_dir / "daemon.json", self.url)
        # What is there now stays. Looking through it for garbage, as Python does every few hundred requests, would hold
        # up all streams for 60 ms each time.
        gc.collect()
        gc.freeze()
        self._readiness = "ready"
        logger.info(
            "serving %s at %s, ready in %.0f s",
            version_name(self._swaps.promoted),
            self.url,
            time.monotonic() - self._started,
        )
        if on_ready is not None:
            on_ready({"url": self.url, "pid": os.getpid()})
        self._in_background("entropy monitor", self._monitor.run)
        self._in_background("live entropy", partial(close_windows_every, settings.entropy.interval_s, self._live))
        if self._tap is not None:
            self._in_background("entropy tap", self._tap.run)
        self._in_background("control loop", self._controller.run)
        if not self._engines.are_children:
            self._in_background("engine watch", self._engines.watch)
        await self._http.wait()

    async def _start_engines(self) -> None:
        """Returns when an engine, ours or another's, has generated a token and holds the promoted version."""
        self._readiness = "starting: waiting for the engine"
        try:
            await self._engines.start()
        except EngineError as error:
            raise StartError(error.message) from error

    def _ready(self) -> str:
        if self._readiness == "ready" and not self._pool.serving():
            return "no engine serves at the moment"
        return self._readiness

    def _in_background(self, name: str, part: Callable[[], Awaitable[None]]) -> None:
        self._background.append(asyncio.create_task(keep_going(name, part), name=name))

    def _on_signal(self, stopped: asyncio.Event) -> None:
        if stopped.is_set():
            self._http.hurry()
        stopped.set()

    async def _stop(self) -> None:
        in_flight = self._slots.in_flight()
        logger.info("stopping" + (f": waiting for {in_flight} requests" if in_flight else ""))
        self._readiness = "stopping"
        # A job's rollouts are requests too: its worker goes at once, or the drain would wait for it.
        try:
            await asyncio.gather(self._http.drain(), *(worker.stop() for worker in self._workers))
        finally:
            await self._supervisor.stop_all()
            for part in (self._gateway, self._pool, self._dispatcher):
                await part.close()
            if self._tap_socket is not None:
                self._tap_socket.close()
        (self._settings.data_dir / "daemon.json").unlink(missing_ok=True)
        logger.info("stopped")


def build_monitor(
    settings: Settings, policy: ServedPolicy, db: sqlite3.Connection, client: ProbeClient, swaps: SwapManager
) -> tuple[EntropySeries, EntropyMonitor]:
    section = settings.entropy
    probes = load_probes(section.probes, section.probe_count)
    meter = EntropyMeter(
        client,
        probes,
        max_tokens=section.max_tokens,
        top_k=section.top_k,
        confidence=section.confidence,
        vocab_size=policy.vocabulary,
    )
    key = series_key(
        policy.digest,
        probes.digest,
        max_tokens=section.max_tokens,
        top_k=section.top_k,
        windows=section.baseline_windows,
    )
    series = EntropySeries(db, key)
    detector = CollapseDetector.from_settings(section)
    return series, EntropyMonitor(
        meter, series, detector, section, lambda: (swaps.promoted, engine_name(swaps.promoted))
    )


def _engines(
    settings: Settings, policy: ServedPolicy, device: Device, tap_address: str | None
) -> tuple[list[Replica], list[Command]]:
    """The replicas, and how to start those that are to be children."""
    engine = settings.engine
    if engine.urls:
        return [Replica(_engine_name(index, engine.urls), url) for index, url in enumerate(engine.urls)], []
    ports = [engine.port + index if engine.port else reserve_port(engine.host) for index in range(engine.replicas)]
    replicas: list[Replica] = []
    commands: list[Command] = []
    for index, port in enumerate(ports):
        name = _engine_name(index, ports)
        share = (index, len(ports))
        made = engine_command(settings, policy.path, port, device, tap_address=tap_address, replica=share)
        replicas.append(Replica(name, url_of(engine.host, port)))
        commands.append(Command(name, made.argv, made.env, ENGINE_GRACE_S))
    return replicas, commands


def _engine_name(index: int, engines: Sequence[object]) -> str:
    return f"engine-{index + 1}" if len(engines) > 1 else "engine"


def _listen_to_taps(address: str) -> socket.socket:
    try:
        return tap_socket(address)
    except OSError as error:
        raise ConfigError(
            f"entropy.tap_address = {address!r} cannot be listened on: {error.strerror}; name another one, or set "
            "entropy.tap to 'off'",
            param="entropy.tap_address",
        ) from error


async def keep_going(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Runs a part that is not needed to serve; serving outlives its failures, which are logged with their traceback."""
    while True:
        try:
            await part()
        except Exception:
            logger.exception("the %s failed; it starts again in %.0f s", name, RETRY_S)
        await asyncio.sleep(RETRY_S)


def configure_logging() -> None:
    """One line per event on stderr."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("reheatd").setLevel(logging.INFO)
