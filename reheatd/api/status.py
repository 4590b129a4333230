"""The state of every part of the daemon at this moment."""

import asyncio
import time

from reheatd.api.context import ApiContext
from reheatd.api.learning import LearningView, learning_view
from reheatd.api.schemas import EngineHealth, PartHealth, PromotedVersion, RequestTotals, StatusView, WorkersHealth
from reheatd.engine.pool import Replica
from reheatd.names import version_name
from reheatd.process.broker import BrokerError
from reheatd.signal import Reach

CENSUS_AGE_S = 10.0
"""Workers are counted again if the last count is older than this, in seconds; counting takes a second."""


async def status_view(context: ApiContext) -> StatusView:
    """Asks every part how it is."""
    controller = context.controller
    version = context.versions.promoted()
    windows = context.series.last(1, version)
    waiting = controller.waiting()
    engines = await asyncio.gather(*(_engine(replica) for replica in context.pool.replicas))
    return StatusView(
        readiness=context.readiness(),
        state=controller.state,
        mode=context.settings.control.mode,
        policy=context.settings.policy.model,
        promoted=PromotedVersion(version=version, name=version_name(version)),
        verdict=context.monitor.verdict,
        entropy=windows[0].estimate if windows else None,
        baseline=context.monitor.baseline,
        baseline_of=context.settings.baseline_of,
        reference=context.settings.policy.reference,
        ratio=windows[0].ratio if windows else None,
        measuring=context.monitor.progress,
        problem=context.monitor.problem,
        job=controller.current_job,
        queued=len(waiting),
        waiting=waiting,
        cooldown_remaining_s=controller.cooldown_remaining_s,
        paused=controller.pauses,
        learning=learning_of(context),
        reach=_reach(context, version),
        uptime_s=time.monotonic() - context.started_at,
        engines=engines,
        broker=_broker(await context.broker_healthy()),
        workers=await _workers(context),
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


async def _workers(context: ApiContext) -> WorkersHealth:
    configured = context.settings.workers.count
    try:
        connected = await context.dispatcher.connected_workers(CENSUS_AGE_S)
    except BrokerError as error:
        return WorkersHealth(ok=False, detail=error.message, configured=configured, connected=None)
    detail = "" if connected else "no worker is connected; jobs wait until `reheatd worker` runs somewhere"
    return WorkersHealth(ok=connected > 0, detail=detail, configured=configured, connected=connected)
