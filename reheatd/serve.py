"""`reheatd serve`: claims what the daemon needs, builds its parts and runs them."""

import asyncio
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from reheatd.access.guard import Access
from reheatd.access.jobs import job_credentials
from reheatd.access.keys import KeyRing
from reheatd.access.quotas import Quotas
from reheatd.access.startup import check_keys
from reheatd.access.tls import checked_certificate
from reheatd.adapters.swap import SwapResult
from reheatd.adapters.validate import base_digest
from reheatd.alerts.alerter import Alerter
from reheatd.alerts.hooks import hooks_of
from reheatd.api.context import ApiContext
from reheatd.api.routes import api_routes
from reheatd.api.server import Doors
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
from reheatd.control.rollout_lengths import RolloutLengths
from reheatd.control.specs import check_request
from reheatd.daemon import Daemon, Parts, Readiness
from reheatd.dashboard.dashboard import Dashboard
from reheatd.database import connect
from reheatd.engine.chat_template import check_chat_template
from reheatd.engine.credentials import daemon_credentials
from reheatd.engine.keeper import EngineKeeper
from reheatd.engine.launch import Device, detect_device
from reheatd.engine.policy_model import resolve_policy
from reheatd.engine.pool import EnginePool
from reheatd.engine.sequence_length import with_length
from reheatd.entropy.meter import vocabulary_size
from reheatd.extras import require_engine_extra, require_worker_extra
from reheatd.jobs.contracts import ReheatRequest
from reheatd.jobs.dispatch import JobDispatcher
from reheatd.metrics.swaps import SwapMetrics
from reheatd.metrics.traffic import Traffic
from reheatd.plan.gpu_plan import GpuPlan, plan_gpus
from reheatd.process.broker import ping
from reheatd.process.http_server import HttpServer
from reheatd.process.instance import claim_data_dir, listen, make_folders, url_of
from reheatd.process.supervisor import Supervisor
from reheatd.reference.files import Reference, resolve_reference


async def serve(settings: Settings, on_ready: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Runs the daemon until SIGTERM or SIGINT, then drains and stops every child.

    Args:
        on_ready: Called once a token can be generated, with the daemon's `url`, `admin_url` and `pid`.

    Raises:
        ReheatdError: The daemon cannot start; nothing is left running.
    """
    configure_logging()
    server = settings.server
    certificate = checked_certificate(server)
    check_keys(settings, lambda db, key: Ledger(db).requested(f"key {key.name} made in server.admin_key_file"))
    device = detect_device() if settings.engine.device == "auto" else settings.engine.device
    if settings.engine.url is None:
        require_engine_extra(device)
    if settings.workers.count:
        require_worker_extra()
    admin = None if server.admin_port is None else listen(server.admin_host, server.admin_port, admin=True)
    with admin or nullcontext(), listen(server.host, server.port) as listener:
        url = url_of(server.host, listener.getsockname()[1], server.scheme)
        admin_url = url if admin is None else url_of(server.admin_host, admin.getsockname()[1], server.scheme)
        readiness = Readiness()
        doors = Doors(readiness, listener, admin)
        http = HttpServer(*doors.served, drain_timeout_s=server.drain_timeout_s, certificate=certificate)
        http.start()
        try:
            policy, reference = await asyncio.to_thread(find_models, settings, readiness.report)
            lock = await claim_data_dir(settings.data_dir)
            try:
                folders = settings.adapters_dir, settings.uploads_dir, settings.jobs_dir, settings.logs_dir
                make_folders(settings.data_dir, folders, settings.database_path)
                with closing(connect(settings.database_path)) as db:
                    gpus = plan_gpus(settings, policy.path) if device == "cuda" else None
                    settings = with_length(settings, policy.path, device, gpus)
                    check_request(ReheatRequest(), settings, vocabulary=policy.vocabulary)
                    parts = assemble(
                        settings, device, gpus, policy, reference, (url, admin_url), doors, http, readiness, lock, db
                    )
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
    check_chat_template(settings.policy, path)
    named = settings.policy.reference
    reference = None if named is None else resolve_reference(named, path, report=report)
    report("reading the policy's files")
    return ServedPolicy(settings.policy.model, path, base_digest(path), vocabulary_size(path)), reference


def assemble(
    settings: Settings,
    device: Device,
    gpus: GpuPlan | None,
    policy: ServedPolicy,
    reference: Reference | None,
    urls: tuple[str, str],
    doors: Doors,
    http: HttpServer,
    readiness: Readiness,
    lock: int,
    db: sqlite3.Connection,
) -> Parts:
    """Builds every part from those that it uses, without starting any, and opens the gateway and the admin API.

    Args:
        gpus: What engines and workers get of the GPUs; None on a CPU.
        reference: The base that the policy was trained from, if the settings name one.
        urls: URL of the gateway, and that of the admin API.
        doors: Where both are opened.
        http: The server of the gateway and the admin API, which runs already.
        lock: File descriptor of the lock on the data folder, which is held for as long as a child runs.
        db: The daemon's database.
    """
    url, admin_url = urls
    hooks = hooks_of(settings.alerts)
    jobs, keys = job_credentials(settings.data_dir), KeyRing(db)
    supervisor = Supervisor(settings.logs_dir, inherited=(lock,))
    broker_url, broker_command = build_broker(settings)
    credentials = daemon_credentials(settings.engine)
    tap_listener = listen_to_taps(settings, device, credentials)
    replicas, commands = build_engines(settings, policy, device, gpus, credentials, tap_listener)
    pool = EnginePool(replicas)
    adapters = build_adapters(settings, db, pool)
    engines = EngineKeeper(
        pool, supervisor, commands, adapters.swaps.admit, startup_timeout_s=settings.engine.startup_timeout_s
    )
    entropy = build_entropy(settings, policy, reference, db, pool, adapters)
    readiness.pool = pool
    disable_created_metrics()  # a gauge beside each counter, which nobody needs
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    traffic = Traffic(registry)
    gateway = build_gateway(settings, policy, pool, adapters, entropy, traffic, readiness)
    heartbeat_s = settings.control.heartbeat_timeout_s
    dispatcher = JobDispatcher(broker_url, heartbeat_timeout_s=heartbeat_s, credential=jobs.of)
    ledger = Ledger(db)
    lengths = RolloutLengths(db, policy.digest, settings.policy)
    controller = build_controller(settings, policy, url, ledger, adapters, entropy, lengths, dispatcher)
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
        recent=traffic.recent,
        metrics=registry,
        readiness=readiness,
        broker_healthy=lambda: ping(broker_url),
        started_at=time.monotonic(),
    )
    access = Access(keys, Quotas(), jobs, controller.is_current, required=settings.server.needs_keys)
    dashboard = Dashboard(api, keys, gateway.routes())
    doors.open(access, gateway.routes(), [*api_routes(api), *dashboard.routes()])

    alerter: Alerter | None = None
    if hooks:
        alerter = Alerter(db, ledger, settings.alerts, hooks, policy=settings.policy.model, daemon=admin_url)
        ledger.on_entry = alerter.wake

    # Callbacks by which a part tells something to a part that it does not know.
    entropy.monitor.on_verdict = controller.on_verdict
    swap_metrics = SwapMetrics(registry)

    def on_flip(result: SwapResult) -> None:
        entropy.monitor.give_up_outdated()
        swap_metrics.promoted(result.seconds, result.proof and result.proof.tokens)

    adapters.swaps.on_flip = on_flip
    adapters.swaps.on_refusal = swap_metrics.refused
    adapters.swaps.on_fallback = controller.on_fallback

    return Parts(
        url=url,
        admin_url=admin_url,
        readiness=readiness,
        supervisor=supervisor,
        broker_url=broker_url,
        broker_command=broker_command,
        tap_listener=tap_listener,
        reference=build_reference(settings, device, gpus, policy, reference, entropy, lengths),
        pool=pool,
        engines=engines,
        slots=adapters.slots,
        swaps=adapters.swaps,
        monitor=entropy.monitor,
        live=entropy.live,
        gateway=gateway,
        dispatcher=dispatcher,
        controller=controller,
        alerter=alerter,
        keys=keys,
        dashboard=dashboard,
        http=http,
        gpus=gpus,
    )


def configure_logging() -> None:
    """Logs one line per event on stderr."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("reheatd").setLevel(logging.INFO)
