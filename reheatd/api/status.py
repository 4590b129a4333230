"""The state of every part of the daemon at this moment."""

import asyncio
import time
from dataclasses import asdict

from reheatd.api.context import ApiContext
from reheatd.api.learning import learning_view
from reheatd.api.outlook import intentions, reason
from reheatd.api.schemas import (
    EngineHealth,
    LearningView,
    PartHealth,
    PromotedVersion,
    RequestTotals,
    StatusView,
    ThresholdsView,
    WorkersHealth,
)
from reheatd.engine.pool import Replica
from reheatd.names import version_name
from reheatd.process.broker import BrokerError
from reheatd.signal import Reach
from reheatd.trackers.children import tracker_health
from reheatd.trackers.health import TrackerHealth

CENSUS_AGE_S = 10.0
"""Workers are counted again if the last count is older than this, in seconds; counting takes a second."""


async def status_view(context: ApiContext) -> StatusView:
    """Asks every part how it is."""
    controller = context.controller
    version = context.versions.promoted()
    windows = context.series.last(1, version)
    job, waiting, pauses = controller.current_job, controller.waiting(), controller.pauses
    learning = learning_of(context)
    window = windows[0] if windows else None
    thresholds = context.monitor.thresholds
    limits = None if thresholds is None else ThresholdsView(**asdict(thresholds))
    engines = await asyncio.gather(*(_engine(replica) for replica in context.pool.replicas))
    return StatusView(
        readiness=context.readiness(),
        state=controller.state,
        mode=context.settings.control.mode,
        policy=context.settings.policy.model,
        promoted=PromotedVersion(version=version, name=version_name(version)),
        verdict=context.monitor.verdict,
        entropy=window and window.estimate,
        baseline=context.monitor.baseline,
        baseline_of=context.settings.baseline_of,
        reference=context.settings.policy.reference,
        ratio=window and window.ratio,
        thresholds=limits,
        reason=reason(context.monitor.verdict, window, limits, learning),
        next=intentions(context, job, waiting, pauses),
        measuring=context.monitor.progress,
        problem=context.monitor.problem,
        job=job,
        queued=len(waiting),
        waiting=waiting,
        cooldown_remaining_s=controller.cooldown_remaining_s,
        paused=pauses,
        learning=learning,
        reach=_reach(context, version),
        uptime_s=time.monotonic() - context.started_at,
        engines=engines,
        broker=_broker(await context.broker_healthy()),
        workers=await _workers(context),
        trackers=await _trackers(context),
        tap_rejected=context.live.rejected,
        adapters_loaded=context.slots.loaded(),
        in_flight=context.slots.in_flight(),
        requests=RequestTotals(total=context.requests.total, failed=context.requests.failed),
        recent=context.recent.figures(),
    )


def learning_of(context: ApiContext) -> LearningView | None:
    """What the rollouts of RL teach the promoted version; None if its run has no step yet."""
    return learning_view(context.learning, context.versions.promoted(), context.settings.entropy)


def _reach(context: ApiContext, version: int) -> Reach | None:
    lineage = context.versions.get(version).lineage
    return Reach.between(lineage.accuracy_base, lineage.accuracy_after) if lineage is not None else None


def _broker(ok: bool) -> PartHealth:
    return PartHealth(ok=ok, detail="" if ok else "the broker does not answer; see its log")


async def _engine(replica: Replica) -> EngineHealth:
    detail = ""
    if not replica.serving:
        detail = replica.problem or "gets no requests until it is running and holds the adapters; see its log"
    elif not await replica.client.is_healthy():
        detail = "does not answer; see its log"
    return EngineHealth(ok=not detail, detail=detail, name=replica.name, url=replica.url, in_flight=replica.outstanding)


async def _trackers(context: ApiContext) -> list[TrackerHealth]:
    return await asyncio.to_thread(tracker_health, context.settings) if context.settings.trackers.names else []


async def _workers(context: ApiContext) -> WorkersHealth:
    configured = context.settings.workers.count
    try:
        connected = await context.dispatcher.connected_workers(CENSUS_AGE_S)
    except BrokerError as error:
        return WorkersHealth(ok=False, detail=error.message, configured=configured, connected=None)
    detail = "" if connected else "no worker is connected; jobs wait until `reheatd worker` runs somewhere"
    return WorkersHealth(ok=connected > 0, detail=detail, configured=configured, connected=connected)
