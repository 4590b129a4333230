"""Makes a job's specification from a request and the settings, and a version's lineage from a finished job."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

from pydantic import ValidationError

from reheatd.adapters.lineage import Lineage
from reheatd.config import Settings
from reheatd.control.dependencies import ServedPolicy
from reheatd.entropy.detector import Verdict
from reheatd.entropy.regime import Thresholds
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import (
    DataPlace,
    ImportRequest,
    ImportResult,
    ImportSpec,
    JobRequest,
    JobResult,
    ReheatRequest,
    ReheatSpec,
    RLRequest,
    RLSpec,
    TrainingRequest,
    TrainingSpec,
)
from reheatd.measures import EntropyEstimate
from reheatd.options import IDLE_CLIP, Options, ProbeOptions, ReheatOptions, Remedy, RLOptions, TaskOptions
from reheatd.tasks.sources import from_anywhere
from reheatd.validation import first_problem

FORCED_RISE = 1.2
"""A reheat that is forced on a policy that has not collapsed leads to this many times its entropy by default."""
STALLED_RISE = 1.5
"""A reheat of a stalled policy that has not collapsed leads to this many times its entropy by default."""

Merged = TypeVar("Merged", ReheatOptions, RLOptions)


def check_request(
    request: JobRequest,
    settings: Settings,
    *,
    vocabulary: int,
    baseline: float | None = None,
    default_target: float | None = None,
) -> None:
    """Checks that the job of a request fits this policy, which the request alone does not tell.

    Args:
        vocabulary: Number of logits of the policy; its logarithm is the highest possible entropy.
        baseline: Mean entropy of the base policy on the probes, in nats per token; None while it is not known.
        default_target: Entropy to which a reheat leads unless it is told another; None while it is not known.

    Raises:
        BadInputError: The job has more tokens than the engine accepts, a clip that cannot act, a tau that changes
            nothing, two targets, or a target that no distribution reaches; `param` names the option.
    """
    if isinstance(request, ImportRequest):
        return
    options = merged(settings.rl, request) if isinstance(request, RLRequest) else merged(settings.reheat, request)
    if options.max_tokens != "auto" and options.max_tokens >= settings.policy.length:
        raise BadInputError(
            f"max_tokens = {options.max_tokens} leaves no room for a prompt in policy.max_model_len = "
            f"{settings.policy.length}; ask for fewer tokens",
            param="max_tokens",
        )
    idle = options.idle_clip(request.given()) if isinstance(options, RLOptions) else None
    if idle is not None:
        raise BadInputError(f"{idle} = {getattr(options, idle)} {IDLE_CLIP}", param=idle)
    if isinstance(request, ReheatRequest):
        _check_reheat(request, settings.reheat, vocabulary, baseline, default_target)


def _check_reheat(
    request: ReheatRequest,
    configured: ReheatOptions,
    vocabulary: int,
    baseline: float | None,
    default_target: float | None,
) -> None:
    if merged(configured, request).tau == 1:
        raise BadInputError("tau = 1 changes nothing; choose it above 1 to reheat, below 1 to cool", param="tau")
    remedy = remedy_of(request, configured)
    asked = _asked(request)
    if "tau" in asked and remedy != "ts_opsd":
        raise BadInputError(
            f"tau = {request.tau:g} is the teacher's temperature in TS-OPSD, which remedy = {remedy} "
            f"{'chooses itself' if remedy == 'auto' else 'does not use'}; leave out tau or remedy",
            param="tau",
        )
    if "towards" in asked and remedy != "shrink":
        raise BadInputError(
            f"towards = {request.towards} is for remedy = shrink, but the remedy is {remedy}; leave towards out",
            param="towards",
        )
    if {"target_ratio", "target_entropy"} <= asked:
        raise BadInputError(
            f"target_ratio = {request.target_ratio} and target_entropy = {request.target_entropy} are two targets; "
            "give one",
            param="target_ratio",
        )
    target = target_entropy(request, configured, baseline, default_target)
    if target is not None and target > math.log(vocabulary):
        param = "target_entropy" if baseline is None or "target_entropy" in asked else "target_ratio"
        raise BadInputError(
            f"a target of {target:.3f} nats per token is above {math.log(vocabulary):.3f}, the entropy of a "
            f"uniform distribution over {vocabulary} tokens; name a lower {param}",
            param=param,
        )


def _asked(request: ReheatRequest) -> set[str]:
    """The options that a request gives a value; one that is null only undoes what is configured."""
    return {name for name, value in request.given().items() if value is not None}


def check_collapsed(
    request: JobRequest, verdict: Verdict | None, entropy: EntropyEstimate | None, limits: Thresholds | None
) -> None:
    """Checks that a reheat was asked for a policy that has collapsed or stalled, or with `force`.

    A healthy policy whose own smoothed distribution is its teacher runs away (arXiv 2606.00755). A policy of unknown
    entropy is not refused here; its worker measures it.

    Args:
        verdict: Verdict on the policy.
        entropy: Newest estimate of its entropy.
        limits: Its thresholds.

    Raises:
        BadInputError: The policy has neither collapsed nor stalled.
    """
    if not isinstance(request, ReheatRequest) or not request.heats or request.force:
        return
    if verdict in ("collapsed", "stalled"):
        return
    if entropy is None or limits is None or entropy.mean < limits.collapsed:
        return
    raise BadInputError(
        f"the policy has not collapsed: its entropy is {entropy.mean:.3f} [{entropy.low:.3f}, {entropy.high:.3f}] nats "
        f"per token, and the threshold is {limits.collapsed:.3f} ({limits.because}); give force (--force) to insist",
        param="force",
    )


def merged(configured: Merged, request: JobRequest) -> Merged:
    """The configured options, replaced by those that a request gives.

    Raises:
        BadInputError: An option of the request contradicts a configured one.
    """
    try:
        return type(configured).model_validate(configured.model_dump() | request.given())
    except ValidationError as error:
        name, message = first_problem(error)
        raise BadInputError(message, param=name or None) from error


def remedy_of(request: ReheatRequest, configured: ReheatOptions) -> Remedy:
    """The remedy that a request asks for: its own, TS-OPSD if it gives a tau, and otherwise the configured one."""
    given = request.given()
    return "ts_opsd" if given.get("tau") is not None and "remedy" not in given else merged(configured, request).remedy


def target_entropy(
    request: ReheatRequest, configured: ReheatOptions, baseline: float | None, default: float | None = None
) -> float | None:
    """The entropy at which a reheat stops, in nats per token.

    A target that the request gives wins, then the configured one, then the default one. A request with a tau below 1
    has only a target that it gives: it cools, and the others say how far to heat.

    Returns:
        None if there is no target, or if it is not known yet.
    """
    given = request.given()
    if given.get("target_entropy") is not None:
        return request.target_entropy
    if "target_ratio" in given:
        ratio = request.target_ratio
    elif given.get("tau") is not None and given["tau"] < 1:
        return None
    elif configured.target_entropy is not None:
        return configured.target_entropy
    else:
        ratio = configured.target_ratio
    if ratio is None:
        return default
    return None if baseline is None else ratio * baseline


def build_spec(
    request: TrainingRequest,
    settings: Settings,
    policy: ServedPolicy,
    *,
    job_id: str,
    gateway_url: str,
    parent_version: int,
    parent_adapter: Path | None,
    probes: ProbeOptions,
    baseline: float,
    default_target: float,
    length: int | None = None,
    towards_adapter: Path | None = None,
    verdict: Verdict | None = None,
    parent_entropy: EntropyEstimate | None = None,
    parent_lineage: Lineage | None = None,
    places: Sequence[DataPlace] = (),
) -> TrainingSpec:
    """The specification of a requested job; options that the request does not give come from the settings.

    All paths are absolute.

    Args:
        probes: How the daemon measures entropy, with the length of answers that it found.
        baseline: Mean entropy of the base policy on the probes, in nats per token.
        default_target: Entropy to which a reheat leads unless it is told another, in nats per token.
        length: Tokens per rollout that an earlier job found; None leaves a `max_tokens` of `auto` to the worker.
        towards_adapter: Folder of the version that the request names as `towards`; None for the base.
        verdict: Verdict on the parent.
        parent_entropy: Newest estimate of the parent's entropy, if there is one.
        parent_lineage: Lineage of the parent. Its accuracy is reused if it was measured with the same task options,
            and so is its entropy if it was measured on the same probes and there is no newer estimate.
        places: Where earlier jobs of RL stopped in their problems.

    Raises:
        BadInputError: As for `check_request`.
    """
    check_request(request, settings, vocabulary=policy.vocabulary, baseline=baseline, default_target=default_target)
    rl = (merged(settings.rl, request) if isinstance(request, RLRequest) else settings.rl).with_length(length)
    task, probes = task_of_jobs(settings, rl), _from_anywhere(probes)
    if parent_entropy is None and _measured_with(parent_lineage, "probes", probes):
        parent_entropy = parent_lineage.entropy_after
    common: dict[str, Any] = {
        "job_id": job_id,
        "parent_version": parent_version,
        "parent_adapter": parent_adapter,
        "model_path": policy.path.resolve(),
        "gateway_url": gateway_url,
        "output_dir": (settings.jobs_dir / job_id).resolve(),
        "lora": settings.lora,
        "task": task,
        "probes": probes,
        "report_rollouts": settings.workers.report_rollouts,
        "rollouts_kept": settings.workers.rollouts_kept,
        "retry_s": settings.workers.retry_s,
        "sequences_at_once": settings.engine.own_sequences,
        "reference_answers": _reference_answers(settings),
        "parent_entropy": parent_entropy,
        "base_accuracy": parent_lineage.accuracy_base if _measured_with(parent_lineage, "task", task) else None,
        "parent_accuracy": parent_lineage.accuracy_after if _measured_with(parent_lineage, "task", task) else None,
        "seed": request.seed,
    }
    if isinstance(request, RLRequest):
        return RLSpec(**common, **rl.model_dump(), places=list(places))
    options = merged(settings.reheat, request).with_length(length)
    target = target_entropy(request, settings.reheat, baseline, default_target)
    gives_target = {"target_ratio", "target_entropy"} & _asked(request)
    rise = STALLED_RISE if verdict == "stalled" else FORCED_RISE if request.force else None
    if rise is not None and request.heats and not gives_target and parent_entropy is not None:
        target = max(target or 0.0, rise * parent_entropy.mean)
    changed = {"target_entropy": target, "remedy": remedy_of(request, settings.reheat)}
    return ReheatSpec(
        **common, **options.model_dump() | changed, towards_adapter=towards_adapter, rl=rl, places=list(places)
    )


def build_import_spec(
    request: ImportRequest,
    settings: Settings,
    policy: ServedPolicy,
    *,
    job_id: str,
    gateway_url: str,
    probes: ProbeOptions,
    length: int | None = None,
) -> ImportSpec:
    """The specification of an import, with absolute paths. Its parent is the base, which its adapter was trained on.

    Args:
        probes: How the daemon measures entropy.
        length: As for `build_spec`.
    """
    folder = import_folder(settings, job_id)
    return ImportSpec(
        job_id=job_id,
        parent_version=0,
        parent_adapter=None,
        model_path=policy.path.resolve(),
        gateway_url=gateway_url,
        output_dir=folder.parent,
        adapter=folder,
        source=request.source,
        trained_on=request.trained_on,
        lora=settings.lora,
        task=task_of_jobs(settings, settings.rl.with_length(length)),
        probes=_from_anywhere(probes),
        report_rollouts=settings.workers.report_rollouts,
        retry_s=settings.workers.retry_s,
        sequences_at_once=settings.engine.own_sequences,
        reference_answers=_reference_answers(settings),
        seed=request.seed,
    )


def import_folder(settings: Settings, job_id: str) -> Path:
    """The folder of an import's adapter, inside its job's own folder."""
    return (settings.jobs_dir / job_id / "imported").resolve()


def import_lineage_fields(spec: ImportSpec, result: ImportResult, policy: ServedPolicy) -> dict[str, Any]:
    """The fields of an import's `Lineage` that the store does not set itself; `spec` says where it came from."""
    return {
        "parent": spec.parent_version,
        "base_model": policy.name,
        "base_digest": policy.digest,
        "kind": "imported",
        "job_id": spec.job_id,
        "spec": spec.model_dump(mode="json"),
        "entropy_after": result.entropy,
        "accuracy_after": result.accuracy,
        "accuracy_base": result.accuracy_base,
        "proof": result.proof,
    }


def lineage_fields(spec: TrainingSpec, result: JobResult, policy: ServedPolicy) -> dict[str, Any]:
    """The fields of `Lineage` that the store does not set itself."""
    reheat = spec if isinstance(spec, ReheatSpec) else None
    return {
        "parent": spec.parent_version,
        "base_model": policy.name,
        "base_digest": policy.digest,
        "kind": lineage_kind(spec, result),
        "job_id": spec.job_id,
        "remedy": result.remedy,
        "tau": result.tau if result.tau is not None else reheat and reheat.tau,
        "factor": result.factor,
        "target_entropy": reheat and reheat.target_entropy,
        "spec": spec.model_dump(mode="json"),
        "entropy_before": result.entropy_before,
        "entropy_after": result.entropy_after,
        "accuracy_before": result.accuracy_before,
        "accuracy_after": result.accuracy_after,
        "accuracy_base": result.accuracy_base,
        "signal_before": result.signal_before,
        "signal_after": result.signal_after,
        "proof": result.proof,
    }


def lineage_kind(spec: TrainingSpec, result: JobResult) -> Literal["reheat", "cool", "rl"]:
    """The kind of a version's lineage, by what the job did to the policy.

    A reheat counts as `cool` if tau is below 1 or, without a tau, if the target is below the entropy it started from.
    """
    if isinstance(spec, RLSpec):
        return "rl"
    tau = spec.tau if spec.tau is not None else result.tau
    if tau is not None:
        return "cool" if tau < 1 else "reheat"
    target = spec.target_entropy
    return "cool" if target is not None and target < result.entropy_before.mean else "reheat"


def _measured_with(lineage: Lineage | None, name: str, options: Options) -> TypeGuard[Lineage]:
    """Whether the job of `lineage` had the same `task` or `probes`. Answers whose length is still open differ."""
    is_open = isinstance(options, TaskOptions) and options.eval_max_tokens is None
    return lineage is not None and not is_open and lineage.spec.get(name) == options.model_dump(mode="json")


def task_of_jobs(settings: Settings, rl: RLOptions) -> TaskOptions:
    """The task that jobs train and measure on; a local path is absolute.

    Args:
        rl: The options of RL, as long as whose rollouts the answers to held-out problems are by default. If that length
            is still to be found, `eval_max_tokens` is None.
    """
    length = settings.task.eval_max_tokens or (None if rl.max_tokens == "auto" else rl.max_tokens)
    return settings.task.model_copy(update={"path": from_anywhere(settings.task.path), "eval_max_tokens": length})


def _reference_answers(settings: Settings) -> Path | None:
    return settings.reference_answers_file.resolve() if settings.policy.reference is not None else None


def _from_anywhere(probes: ProbeOptions) -> ProbeOptions:
    """These probes with an absolute path."""
    return probes.model_copy(update={"probes": _absolute(probes.probes)})


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()
