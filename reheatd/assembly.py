"""Builds the daemon's parts from the settings, each from the parts that it uses, without starting any."""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reheatd.adapters.store import AdapterStore
from reheatd.adapters.swap import SwapManager
from reheatd.adapters.validate import validate_adapter
from reheatd.config import Settings
from reheatd.control.controller import Controller
from reheatd.control.dependencies import Dependencies, ServedPolicy
from reheatd.control.ledger import Ledger
from reheatd.control.rollout_lengths import RolloutLengths
from reheatd.engine.credentials import EngineCredentials
from reheatd.engine.launch import Device, engine_command, taps
from reheatd.engine.pool import EnginePool, Replica
from reheatd.engine.probe_client import ProbeClient
from reheatd.engine.slots import AdapterSlots
from reheatd.entropy.answer_length import AnswerLength
from reheatd.entropy.detector import CollapseDetector, Origin
from reheatd.entropy.learning import LearningSignal
from reheatd.entropy.live import LiveSeries, TapListener, tap_socket
from reheatd.entropy.meter import EntropyMeter, Sampler
from reheatd.entropy.monitor import EntropyMonitor
from reheatd.entropy.probes import load_probes
from reheatd.entropy.series import EntropySeries, series_key
from reheatd.gateway.app import Gateway
from reheatd.gateway.limits import LogprobLimit
from reheatd.gateway.live_logprobs import LiveLogprobs
from reheatd.gateway.silence import Silence
from reheatd.jobs.dispatch import JobDispatcher
from reheatd.measures import EntropyEstimate
from reheatd.metrics.traffic import Traffic
from reheatd.names import model_name
from reheatd.plan.gpu_plan import GpuPlan
from reheatd.process.broker import embedded_broker
from reheatd.process.instance import url_of
from reheatd.process.ports import reserve_port
from reheatd.process.supervisor import Command
from reheatd.reference.files import Reference
from reheatd.reference.measurement import ReferenceMeasurement, check_engine_for_reference
from reheatd.reference.questions import Questions
from reheatd.task_data import load_task
from reheatd.tracing.requests import RequestTraces

logger = logging.getLogger(__name__)

ENGINE_GRACE_S = 10.0


@dataclass(frozen=True)
class Adapters:
    """The parts that keep, load and swap adapters."""

    store: AdapterStore
    slots: AdapterSlots
    swaps: SwapManager


@dataclass(frozen=True)
class Entropy:
    """The parts that measure and keep entropy."""

    meter_of: Callable[[Sampler], EntropyMeter]
    answer_length: AnswerLength
    series: EntropySeries
    learning: LearningSignal
    monitor: EntropyMonitor
    live: LiveSeries


def build_broker(settings: Settings) -> tuple[str, Command | None]:
    """The broker's URL, and the command that starts it if it is to be a child."""
    if (url := settings.broker.full_url) is not None:
        return url, None
    embedded = embedded_broker(settings.broker_dir)
    return embedded.url, embedded.command


def listen_to_taps(settings: Settings, device: Device, credentials: EngineCredentials | None) -> TapListener | None:
    """What the engines' taps send to; None if there are none. Engines that run elsewhere may have taps.

    Without credentials, nothing that arrives could be told from what others send.
    """
    tapped = settings.entropy.tap != "off" if settings.engine.url else taps(settings, device)
    if tapped and credentials is None:
        logger.warning("no entropy taps: the engines at engine.url share no secret with this daemon; see api_key_file")
    if not tapped or credentials is None:
        return None
    return TapListener(tap_socket(settings.entropy.tap_address), credentials.tap_key)


def build_engines(
    settings: Settings,
    policy: ServedPolicy,
    device: Device,
    gpus: GpuPlan | None,
    credentials: EngineCredentials | None,
    tap_listener: TapListener | None,
) -> tuple[list[Replica], list[Command]]:
    """The replicas, and the commands that start them if they are to be children.

    Args:
        gpus: None on a CPU.
    """
    engine, owned = settings.engine, settings.data_dir.resolve()
    key = None if credentials is None else credentials.api_key
    if engine.urls:
        return [Replica(_engine_label(at, engine.urls), url, owned, key) for at, url in enumerate(engine.urls)], []
    tap_address = tap_listener.address if tap_listener else None
    ports = [engine.port + index if engine.port else reserve_port(engine.host) for index in range(engine.replicas)]
    replicas: list[Replica] = []
    commands: list[Command] = []
    for index, port in enumerate(ports):
        name = _engine_label(index, ports)
        made = engine_command(
            settings,
            policy.path,
            port,
            device,
            credentials=credentials,
            tap_address=tap_address,
            replica=(index, len(ports)),
            gpus=None if gpus is None else gpus.engines[index],
        )
        replicas.append(Replica(name, url_of(engine.host, port), owned, key))
        commands.append(Command(name, made.argv, made.env, ENGINE_GRACE_S))
    return replicas, commands


def _engine_label(index: int, engines: Sequence[object]) -> str:
    return f"engine-{index + 1}" if len(engines) > 1 else "engine"


def build_adapters(settings: Settings, db: sqlite3.Connection, pool: EnginePool) -> Adapters:
    store = AdapterStore(settings.adapters_dir, db)
    slots = AdapterSlots(pool, settings.engine.max_loras)
    swaps = SwapManager(
        store,
        slots,
        pool,
        proof_tolerance=settings.gate.proof_tolerance,
        drain_timeout_s=settings.server.drain_timeout_s,
    )
    return Adapters(store, slots, swaps)


def build_entropy(
    settings: Settings,
    policy: ServedPolicy,
    reference: Reference | None,
    db: sqlite3.Connection,
    pool: EnginePool,
    adapters: Adapters,
) -> Entropy:
    section = settings.entropy
    probes = load_probes(settings.task, section)
    length = AnswerLength(section.window_tokens, settings.policy.length)
    configured = None if section.max_tokens == "auto" else section.max_tokens

    def meter_of(client: Sampler) -> EntropyMeter:
        return EntropyMeter(
            client,
            probes,
            max_tokens=configured,
            top_k=section.top_k,
            confidence=section.confidence,
            vocab_size=policy.vocabulary,
            at_once=settings.engine.own_sequences,
        )

    given = section.baseline_nats
    baseline = f"{given} nats" if given is not None else reference and reference.digest
    key = series_key(
        policy.digest,
        probes.digest,
        max_tokens=length.rule if configured is None else configured,
        top_k=section.top_k,
        windows=section.baseline_windows,
        baseline=baseline,
    )
    series = EntropySeries(db, key)
    if given is not None:
        series.save_baseline(EntropyEstimate(mean=given, low=given, high=given, tokens=0, sequences=0))
    detector = CollapseDetector(section)
    swaps = adapters.swaps

    def origin_of(version: int) -> Origin:
        lineage = adapters.store.get(version).lineage
        return "base" if lineage is None else lineage.kind

    def job_of(version: int) -> str | None:
        lineage = adapters.store.get(version).lineage
        return None if lineage is None else lineage.job_id

    learning = LearningSignal(db, section, job_of)
    monitor = EntropyMonitor(
        meter_of(ProbeClient(pool, adapters.slots)),
        series,
        detector,
        section,
        lambda: (swaps.promoted, model_name(swaps.promoted)),
        origin_of,
        learning.is_stalled,
        own_baseline=settings.baseline_of == "policy",
        answer_length=length,
    )
    return Entropy(meter_of, length, series, learning, monitor, LiveSeries(db, confidence=section.confidence))


def build_reference(
    settings: Settings,
    device: Device,
    gpus: GpuPlan | None,
    policy: ServedPolicy,
    reference: Reference | None,
    entropy: Entropy,
    lengths: RolloutLengths,
) -> ReferenceMeasurement | None:
    """The measurement of the reference; None if there is no reference, or if it was measured in an earlier run.

    Args:
        gpus: None on a CPU.
    """
    if reference is None:
        return None
    data = load_task(settings.task, settings.entropy)
    measurement = ReferenceMeasurement(
        settings,
        device,
        None if gpus is None else gpus.engines[0],
        reference.path,
        policy.path,
        entropy.series,
        entropy.meter_of,
        entropy.answer_length,
        Questions(settings, reference.digest, data, lengths),
    )
    if measurement.is_known:
        return None
    check_engine_for_reference(device)
    return measurement


def build_gateway(
    settings: Settings,
    policy: ServedPolicy,
    pool: EnginePool,
    adapters: Adapters,
    entropy: Entropy,
    traffic: Traffic,
    traces: RequestTraces | None,
    readiness: Callable[[], str],
) -> Gateway:
    live_logprobs = None
    if settings.entropy.live_fraction:
        live_logprobs = LiveLogprobs(
            entropy.live,
            fraction=settings.entropy.live_fraction,
            top_k=settings.entropy.top_k,
            vocab_size=policy.vocabulary,
            tail_model=lambda: entropy.series.tail_moments().fit(),
        )
    return Gateway(
        pool,
        adapters.slots,
        adapters.swaps,
        adapters.store,
        live_logprobs,
        traffic,
        traces,
        max_concurrent_per_key=settings.server.max_concurrent_per_key,
        max_model_len=settings.policy.length,
        logprob_limit=LogprobLimit(settings.server.max_logprobs, settings.policy.length),
        silence=Silence(pool, settings.server.silence_timeout_s, settings.policy.length),
        engine_wait_s=settings.server.engine_wait_s,
        readiness=readiness,
    )


def build_controller(
    settings: Settings,
    policy: ServedPolicy,
    url: str,
    ledger: Ledger,
    adapters: Adapters,
    entropy: Entropy,
    lengths: RolloutLengths,
    dispatcher: JobDispatcher,
) -> Controller:
    return Controller(
        Dependencies(
            settings=settings,
            policy=policy,
            gateway_url=settings.server.public_url or url,
            ledger=ledger,
            versions=adapters.store,
            swaps=adapters.swaps,
            slots=adapters.slots,
            monitor=entropy.monitor,
            learning=entropy.learning,
            lengths=lengths,
            dispatcher=dispatcher,
            on_rollouts=entropy.live.append,
            validate=lambda folder: validate_adapter(folder, policy.path, max_rank=settings.engine.max_lora_rank),
        )
    )
