"""`reheatd serve`: claims what the daemon needs, builds its parts and runs them."""

import asyncio
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from starlette.applications import Starlette

from reheatd.adapters.validate import base_digest
from reheatd.api.errors import exception_handlers
from reheatd.api.routes import ApiContext, api_routes
from reheatd.api.starting import StartingApp
from reheatd.assembly import (
    build_adapters,
    build_broker,
    build_controller,
    build_engines,
    build_entropy,
    build_gateway,
    build_reference,
    listen_to_taps,
)
from reheatd.config import Settings
from reheatd.control.dependencies import ServedPolicy
from reheatd.control.imports import Imports
from reheatd.control.ledger import Ledger
from reheatd.control.specs import check_request
from reheatd.daemon import Daemon, Parts, Readiness
from reheatd.database import connect
from reheatd.engine.credentials import daemon_credentials
from reheatd.engine.keeper import EngineKeeper
from reheatd.engine.launch import Device, detect_device
from reheatd.engine.policy_model import resolve_policy
from reheatd.engine.pool import EnginePool
from reheatd.entropy.meter import vocabulary_size
from reheatd.extras import require_engine_extra, require_worker_extra
from reheatd.jobs.contracts import ReheatRequest
from reheatd.jobs.dispatch import JobDispatcher
from reheatd.process.broker import ping
from reheatd.process.http_server import HttpServer
from reheatd.process.instance import claim_data_dir, listen, url_of
from reheatd.process.supervisor import Supervisor
from reheatd.reference.files import Reference, resolve_reference


async def serve(settings: Settings, on_ready: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Runs the daemon until SIGTERM or SIGINT, then drains and stops every child.

    Args:
        on_ready: Called once a token can be generated, with the daemon's `url` and `pid`.

    Raises:
        ReheatdError: The daemon cannot start; nothing is left running.
    """
    configure_logging()
    device = detect_device() if settings.engine.device == "auto" else settings.engine.device
    if settings.engine.url is None:
        require_engine_extra(device)
    if settings.workers.count:
        require_worker_extra()
    with listen(settings.server.host, settings.server.port) as listener:
        url = url_of(settings.server.host, listener.getsockname()[1])
        readiness = Readiness()
        front = StartingApp(readiness)
        http = HttpServer(front, listener, drain_timeout_s=settings.server.drain_timeout_s)
        http.start()
        try:
            policy, reference = await asyncio.to_thread(find_models, settings, readiness.report)
            lock = await claim_data_dir(settings.data_dir)
            try:
                with closing(connect(settings.database_path)) as db:
                    check_request(ReheatRequest(), settings, vocabulary=policy.vocabulary)
                    front.app, parts = assemble(settings, device, policy, reference, url, http, readiness, lock, db)
                    await Daemon(settings, parts).run(on_ready)
            finally:
                os.close(lock)
        finally:
            await http.drain()


def find_models(settings: Settings, report: Callable[[str], None]) -> tuple[ServedPolicy, Reference | None]:
    """Finds the policy and the reference, if the settings name one; this may download them.

    Args:
        report: Called with what is being done.

    Raises:
        BadInputError, MissingExtraError: A model cannot be used; see `resolve_policy` and `resolve_reference`.
    """
    path = resolve_policy(settings.policy.model, report=report)
    named = settings.policy.reference
    reference = None if named is None else resolve_reference(named, path, report=report)
    report("reading the policy's files")
    return ServedPolicy(settings.policy.model, path, base_digest(path), vocabulary_size(path)), reference


def assemble(
    settings: Settings,
    device: Device,
    policy: ServedPolicy,
    reference: Reference | None,
    url: str,
    http: HttpServer,
    readiness: Readiness,
    lock: int,
    db: sqlite3.Connection,
) -> tuple[Starlette, Parts]:
    """Builds every part from those that it uses, without starting any. Returns the gateway with the admin API, too.

    Args:
        reference: The base that the policy was trained from, if the settings name one.
        url: URL of the gateway and the admin API.
        http: The server of the gateway and the admin API, which runs already.
        lock: File descriptor of the lock on the data folder, which is held for as long as a child runs.
        db: The daemon's database.
    """
    supervisor = Supervisor(settings.logs_dir, inherited=(lock,))
    broker_url, broker_command = build_broker(settings)
    credentials = daemon_credentials(settings.engine)
    tap_listener = listen_to_taps(settings, device, credentials)
    replicas, commands = build_engines(settings, policy, device, credentials, tap_listener)
    pool = EnginePool(replicas)
    adapters = build_adapters(settings, db, pool)
    engines = EngineKeeper(
        pool, supervisor, commands, adapters.swaps.admit, startup_timeout_s=settings.engine.startup_timeout_s
    )
    entropy = build_entropy(settings, policy, reference, db, pool, adapters)
    readiness.pool = pool
    gateway = build_gateway(settings, policy, pool, adapters, entropy, readiness)
    dispatcher = JobDispatcher(broker_url, heartbeat_timeout_s=settings.control.heartbeat_timeout_s)
    ledger = Ledger(db)
    controller = build_controller(settings, policy, url, ledger, adapters, entropy, dispatcher)
    api = ApiContext(
        settings=settings,
        controller=controller,
        imports=Imports(settings, policy, controller),
        ledger=ledger,
        versions=adapters.store,
        slots=adapters.slots,
        pool=pool,
        monitor=entropy.monitor,
        series=entropy.series,
        learning=entropy.learning,
        live=entropy.live,
        dispatcher=dispatcher,
        requests=gateway.counts,
        readiness=readiness,
        broker_healthy=lambda: ping(broker_url),
        started_at=time.time(),
    )
    app = Starlette(routes=[*gateway.routes(), *api_routes(api)], exception_handlers=exception_handlers())

    # Callbacks by which a part tells something to a part that it does not know.
    entropy.monitor.on_verdict = controller.on_verdict
    adapters.swaps.on_flip = entropy.monitor.give_up_outdated
    adapters.swaps.on_fallback = controller.on_fallback

    parts = Parts(
        url=url,
        readiness=readiness,
        supervisor=supervisor,
        broker_url=broker_url,
        broker_command=broker_command,
        tap_listener=tap_listener,
        reference=build_reference(settings, device, policy, reference, entropy),
        pool=pool,
        engines=engines,
        slots=adapters.slots,
        swaps=adapters.swaps,
        monitor=entropy.monitor,
        live=entropy.live,
        gateway=gateway,
        dispatcher=dispatcher,
        controller=controller,
        http=http,
    )
    return app, parts


def configure_logging() -> None:
    """Logs one line per event on stderr."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("reheatd").setLevel(logging.INFO)
