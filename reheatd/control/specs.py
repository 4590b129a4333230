"""From a request and the settings to a job's specification, and from a finished job to its version's lineage."""

from pathlib import Path
from typing import Any, Literal

from reheatd.adapters.lineage import Lineage
from reheatd.config import Settings
from reheatd.control.dependencies import ServedPolicy
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import JobRequest, JobResult, LoraConfig, ProbeConfig, ReheatSpec, RLSpec, TaskConfig
from reheatd.measures import Accuracy, EntropyEstimate, PassAtK

REHEAT_ONLY = ("tau", "target_ratio", "target_entropy", "teacher", "divergence", "min_p")
RL_ONLY = ("temperature",)


def check_request(request: JobRequest) -> None:
    """Raises:
    BadInputError: A field that the kind of job does not have, a target given twice, or a tau that changes nothing.
    """
    for field in REHEAT_ONLY if request.kind == "rl" else RL_ONLY:
        if getattr(request, field) is not None:
            raise BadInputError(
                f"{field} = {getattr(request, field)} has no meaning for a job of kind {request.kind}; leave it out",
                param=field,
            )
    if request.tau == 1:
        raise BadInputError("tau = 1 changes nothing; choose above 1 to reheat, below 1 to cool", param="tau")
    if request.target_ratio is not None and request.target_entropy is not None:
        raise BadInputError(
            f"target_ratio = {request.target_ratio} and target_entropy = {request.target_entropy} are two targets; "
            "give one",
            param="target_ratio",
        )


def build_spec(
    request: JobRequest,
    settings: Settings,
    policy: ServedPolicy,
    *,
    job_id: str,
    gateway_url: str,
    parent_version: int,
    parent_adapter: Path | None,
    baseline: float,
    parent_entropy: EntropyEstimate | None = None,
    parent_lineage: Lineage | None = None,
) -> ReheatSpec | RLSpec:
    """The specification of a checked request; what it leaves open comes from the settings. All paths are absolute.

    A ratio becomes a target in nats per token. A reheat without tau and without target gets `reheat.target_ratio`, one
    with tau > 1 and without target a ceiling from `reheat.ceiling_ratio`.

    Args:
        baseline: Mean entropy of the base model on the probes, nats per token.
        parent_entropy: Newest estimate of the parent's entropy, if there is one.
        parent_lineage: Of the parent; accuracy and pass@k are taken over where they were measured on the same task.
    """
    task = TaskConfig(
        path=_absolute(settings.task.path),
        reward=settings.task.reward,
        reward_timeout_s=settings.task.reward_timeout_s,
        eval_count=settings.task.eval_count,
        eval_samples=settings.task.eval_samples,
    )
    known_accuracy, known_pass_at_k = _known_scores(parent_lineage, task)
    common: dict[str, Any] = {
        "job_id": job_id,
        "parent_version": parent_version,
        "parent_adapter": parent_adapter,
        "model_path": policy.path.resolve(),
        "gateway_url": gateway_url,
        "output_dir": (settings.jobs_dir / job_id).resolve(),
        "lora": LoraConfig(**settings.lora.model_dump()),
        "task": task,
        "probes": ProbeConfig(
            path=_absolute(settings.entropy.probes),
            count=settings.entropy.probe_count,
            max_tokens=settings.entropy.max_tokens,
            top_k=settings.entropy.top_k,
            confidence=settings.entropy.confidence,
        ),
        "parent_entropy": parent_entropy,
        "parent_accuracy": known_accuracy,
        "parent_pass_at_k": known_pass_at_k,
        "seed": request.seed,
    }
    section = settings.reheat if request.kind == "reheat" else settings.rl
    values = section.model_dump(exclude={"target_ratio", "ceiling_ratio"})
    asked = request.model_dump(exclude_none=True, include=set(values))
    if request.kind == "rl":
        return RLSpec(**common, **{**values, **asked})
    target = request.target_entropy
    ratio = request.target_ratio
    if ratio is None and target is None and request.tau is None:
        ratio = settings.reheat.target_ratio
    if ratio is not None:
        target = ratio * baseline
    ceiling = None
    if target is None and request.tau is not None and request.tau > 1:
        start = baseline if parent_entropy is None else max(baseline, parent_entropy.mean)
        ceiling = settings.reheat.ceiling_ratio * start
    return ReheatSpec(**common, **{**values, **asked}, tau=request.tau, target_entropy=target, max_entropy=ceiling)


def lineage_fields(spec: ReheatSpec | RLSpec, result: JobResult, policy: ServedPolicy) -> dict[str, Any]:
    """The fields of `Lineage` that the store does not decide itself."""
    reheat = spec if isinstance(spec, ReheatSpec) else None
    return {
        "parent": spec.parent_version,
        "base_model": policy.name,
        "base_digest": policy.digest,
        "kind": lineage_kind(spec, result),
        "job_id": spec.job_id,
        "tau": result.tau if result.tau is not None else reheat and reheat.tau,
        "target_entropy": reheat and reheat.target_entropy,
        "spec": spec.model_dump(mode="json"),
        "entropy_before": result.entropy_before,
        "entropy_after": result.entropy_after,
        "accuracy_before": result.accuracy_before,
        "accuracy_after": result.accuracy_after,
        "pass_at_k_before": result.pass_at_k_before,
        "pass_at_k_after": result.pass_at_k_after,
        "proof": result.proof,
    }


def lineage_kind(spec: ReheatSpec | RLSpec, result: JobResult) -> Literal["reheat", "cool", "rl"]:
    """`cool` for tau below 1 or, where tau was left open, for a target below the entropy the job started from."""
    if isinstance(spec, RLSpec):
        return "rl"
    tau = spec.tau if spec.tau is not None else result.tau
    if tau is not None:
        return "cool" if tau < 1 else "reheat"
    target = spec.target_entropy
    return "cool" if target is not None and target < result.entropy_before.mean else "reheat"


def _known_scores(lineage: Lineage | None, task: TaskConfig) -> tuple[Accuracy | None, PassAtK | None]:
    if lineage is None or lineage.spec.get("task") != task.model_dump(mode="json"):
        return None, None
    return lineage.accuracy_after, lineage.pass_at_k_after


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()
