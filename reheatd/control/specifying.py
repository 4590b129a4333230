"""Specifies the job of a request with what the daemon knows at this moment."""

from pathlib import Path

from reheatd.control.dependencies import Dependencies
from reheatd.control.specs import build_spec, merged
from reheatd.errors import ConflictError
from reheatd.jobs.contracts import ReheatRequest, TrainingRequest, TrainingSpec
from reheatd.measures import EntropyEstimate
from reheatd.options import ProbeOptions


def specify(
    dependencies: Dependencies,
    request: TrainingRequest,
    *,
    job_id: str,
    probes: ProbeOptions,
    baseline: EntropyEstimate,
) -> TrainingSpec:
    """The specification of a job that starts from the promoted version.

    Raises:
        BadInputError, NotFoundError: As for `build_spec`, or there is no version that the request names.
    """
    monitor, parent = dependencies.monitor, dependencies.swaps.promoted
    limits = monitor.thresholds
    if limits is None:
        raise RuntimeError(f"{job_id} has a baseline, but no thresholds")
    return build_spec(
        request,
        dependencies.settings,
        dependencies.policy,
        job_id=job_id,
        gateway_url=dependencies.gateway_url,
        parent_version=parent,
        parent_adapter=dependencies.versions.path(parent) if parent else None,
        probes=probes,
        baseline=baseline.mean,
        default_target=limits.target,
        length=dependencies.lengths.known(dependencies.settings.task, probes.digest),
        towards_adapter=_towards(dependencies, request),
        verdict=monitor.verdict,
        parent_entropy=monitor.latest_estimate(parent),
        parent_lineage=dependencies.versions.get(parent).lineage,
        places=dependencies.ledger.jobs.data_places(),
    )


async def preview(dependencies: Dependencies, request: TrainingRequest) -> TrainingSpec:
    """The specification of the job that a request would start now; nothing is measured for it and nothing started.

    Raises:
        ConflictError: The daemon has not measured yet what a job needs.
        BadInputError, NotFoundError: As for `specify`.
    """
    monitor = dependencies.monitor
    baseline = monitor.baseline
    if baseline is None or monitor.max_tokens is None:
        raise ConflictError(
            "the baseline, from which a job's target follows, is not measured yet; `reheatd status` shows when it is"
        )
    probes = await monitor.probe_options()
    return specify(dependencies, request, job_id=f"{request.kind}-preview", probes=probes, baseline=baseline)


def _towards(dependencies: Dependencies, request: TrainingRequest) -> Path | None:
    """Folder of the version that a reheat interpolates towards; None for the base."""
    configured = dependencies.settings.reheat
    version = merged(configured, request).towards if isinstance(request, ReheatRequest) else None
    return dependencies.versions.path(version) if version else None
