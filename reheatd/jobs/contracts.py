"""Contracts between the daemon and its workers: what a job is asked to do, what it reports and what it returns.

Both sides validate with these models, and exchange their JSON.
"""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from reheatd.adapters.lineage import ProofItem
from reheatd.entropy.windows import LiveWindow
from reheatd.errors import BadInputError
from reheatd.jobs.curves import CURVES_FILE
from reheatd.jobs.rollout_length import RolloutLength
from reheatd.jobs.rollouts import ROLLOUTS_FILE
from reheatd.measures import Accuracy, Contract, EntropyEstimate
from reheatd.options import RL_REMEDIES, LoraOptions, ProbeOptions, ReheatOptions, Remedy, RLOptions, TaskOptions
from reheatd.signal import Signal
from reheatd.validation import first_problem, suggestion, unknown_names

Request = TypeVar("Request", bound="RequestBase")
Trigger = Literal["manual", "collapse", "stall", "run_away", "follow_up", "round"]
"""Why a job was made: a user asked for it, the policy had collapsed, stalled or run away, it follows a job that
answered such a verdict, or it is a round of continuous RL."""


class JobBase(Contract):
    former_fields: ClassVar[frozenset[str]] = frozenset({"parent_pass_at_k"})

    job_id: str
    parent_version: int
    """Version that the job starts from; 0 is the bare base model."""
    parent_adapter: Path | None
    """Folder of the parent version's adapter; None for version 0."""
    model_path: Path
    """Folder of the base model's safetensors, configuration and tokenizer."""
    gateway_url: str
    """URL of the gateway at which rollouts are sampled, e.g. http://127.0.0.1:8000."""
    output_dir: Path
    """Folder of the job. The worker of an attempt owns a folder in it, `reheatd.jobs.attempts`, and has that one as its
    `output_dir`; it writes rollout adapters, curves, rollouts and the result there."""
    lora: LoraOptions = LoraOptions()
    task: TaskOptions = TaskOptions()
    """The task. Without `eval_max_tokens`, answers are as long as rollouts, whose length the worker then finds."""
    probes: ProbeOptions = ProbeOptions()
    report_rollouts: int = 24
    """Number of rollouts of the parent, and of the student, on which the report compares the two."""
    rollouts_kept: int = 2000
    """Number of rollouts that are kept for reading, at most; see `reheatd.jobs.rollouts`."""
    retry_s: float = 180.0
    """How long the worker repeats its requests while the engine is away, in seconds."""
    sequences_at_once: int = 48
    """Sequences that the job samples at once, at most; the others that the engines could decode are for clients."""
    parent_entropy: EntropyEstimate | None = None
    """Probe entropy of the parent version as the daemon measured it last; if None, the worker measures it."""
    parent_accuracy: Accuracy | None = None
    """The parent version's accuracy; if None, or if it was measured on other problems, the worker measures it."""
    base_accuracy: Accuracy | None = None
    """The base policy's, likewise: what training may have lost. It is measured once for a set of problems."""
    reference_answers: Path | None = None
    """The reference's answers to the held-out problems, if the policy has a reference; they take the place of the
    base's."""
    seed: int = 0

    @field_validator("task", mode="before")
    @classmethod
    def _task_of_an_earlier_version(cls, value: Any) -> Any:
        """Reads a job as reheatd 0.1 stored it, where `eval_samples` = 0 meant one greedy answer and no pass@k."""
        return {**value, "eval_samples": 1} if isinstance(value, dict) and value.get("eval_samples") == 0 else value

    @property
    def checkpoint_file(self) -> Path:
        """The file from which another worker resumes the job; it exists as long as the job runs."""
        return self.output_dir / "checkpoint.pt"

    @property
    def curves_file(self) -> Path:
        """The file of the job's metrics by step."""
        return self.output_dir / CURVES_FILE

    @property
    def rollouts_file(self) -> Path:
        """The file of the job's rollouts that are kept for reading."""
        return self.output_dir / ROLLOUTS_FILE


class DataPlace(Contract):
    """How far RL has come in the problems of a task. Problems are drawn in a random order, once per epoch."""

    problem_set: str
    """Digest of the problems that are trained on; it depends neither on their order nor on the file they are in."""
    seed: int
    """Seed of the order: that of the first job on these problems."""
    drawn: int
    """Problems drawn so far, in all epochs together."""


class ReheatSpec(JobBase, ReheatOptions):
    """A reheat. It stops when the entropy on the probes reaches `target_entropy`; None means no target."""

    former_fields: ClassVar[frozenset[str]] = JobBase.former_fields | {"ceiling_ratio", "max_entropy"}

    kind: Literal["reheat"] = "reheat"
    towards_adapter: Path | None = None
    """Folder of the version `towards`; None for the base."""
    rl: RLOptions = RLOptions()
    """Options of the remedies that are continued RL."""
    places: list[DataPlace] = Field(default_factory=list)
    """As in `RLSpec`, for the same remedies."""


class RLSpec(JobBase, RLOptions):
    """A job of continued RL."""

    kind: Literal["rl"] = "rl"
    places: list[DataPlace] = Field(default_factory=list)
    """Where earlier jobs stopped in the problems that they trained on. The worker goes on from the place in its own
    problems; if it is not among them, the job is the first on them."""


class ImportSpec(JobBase):
    """A job that measures an adapter which another trainer made. It does not train, and starts from the base."""

    kind: Literal["import"] = "import"
    steps: int = 0
    adapter: Path
    """Folder of the adapter in the served form, inside `output_dir`."""
    source: str
    """Name of the file or folder that the user sent."""
    trained_on: str | None
    """Base model that the adapter's configuration names."""


def step_limit(spec: "ReheatSpec | RLSpec") -> int:
    """Largest number of steps that a job takes."""
    return spec.rl.steps if isinstance(spec, ReheatSpec) and spec.remedy in RL_REMEDIES else spec.steps


TrainingSpec = ReheatSpec | RLSpec
JobSpec = Annotated[ReheatSpec | RLSpec | ImportSpec, Field(discriminator="kind")]


class JobResult(Contract):
    """What a finished job hands over. The daemon validates, publishes and measures it, and swaps it in."""

    former_fields: ClassVar[frozenset[str]] = frozenset({"pass_at_k_before", "pass_at_k_after"})

    adapter_dir: Path
    """Folder with `adapter_model.safetensors` and `adapter_config.json`."""
    report_dir: Path | None = None
    """Folder with `report.json`, `report.md` and plots, which is published with the adapter."""
    steps: int
    tau: float | None = None
    entropy_before: EntropyEstimate
    entropy_after: EntropyEstimate
    accuracy_before: Accuracy
    accuracy_after: Accuracy
    accuracy_base: Accuracy | None = None
    """The accuracy of the base, or of the policy's reference, on the same problems. None if an earlier version of
    reheatd trained, or if the reference was not asked these problems."""
    proof: list[ProofItem]
    metrics: dict[str, float] = Field(default_factory=dict)
    """The last values of the training metrics."""
    stopped: str
    """Why training ended: `target`, `steps`, or `no_signal` if no group of rollouts varied for `rl.patience` steps."""
    why_stopped: str | None = None
    """With `no_signal`, one line about the groups of the last steps; otherwise None."""
    updates: int | None = None
    """Optimiser steps that the job took; 0 means that the adapter is its parent's. None if an earlier version of
    reheatd trained."""
    place: DataPlace | None = None
    """Where RL stopped in its problems; None for a reheat."""
    remedy: Remedy | None = None
    """How the policy was reheated; None for continued RL, and if an earlier version of reheatd trained."""
    factor: float | None = None
    """With `shrink`, the factor by which the LoRA was scaled down."""
    signal_before: Signal | None = None
    """The parent's signal on the problems that it had lost; None if it was not measured."""
    signal_after: Signal | None = None
    alternatives: list["JobResult"] = Field(default_factory=list)
    """Further candidates that the job made, the best first. The daemon takes the first that passes the gates."""
    seconds: float


class ImportResult(Contract):
    """What the worker measured of an imported adapter."""

    entropy: EntropyEstimate
    accuracy: Accuracy
    accuracy_base: Accuracy | None = None
    """As in `JobResult`."""
    proof: list[ProofItem]
    seconds: float


class JobStatus(StrEnum):
    AWAITING_APPROVAL = "awaiting_approval"
    """A person has to approve the job: before it starts or, if a gate had no evidence, before its version is
    promoted. `Job.version` tells which; it is None before the start."""
    QUEUED = "queued"
    RUNNING = "running"
    GATING = "gating"
    SWAPPING = "swapping"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.REJECTED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobProgress(Contract):
    """The progress of a job."""

    phase: str = ""
    """What the worker is doing, e.g. `sampling`, `training` or `evaluating`."""
    step: int = 0
    steps: int = 0
    done: int = 0
    of: int = 0
    """With `done`, how far the phase is: for example, `done` of `of` prompts are answered. 0 if nothing is counted."""
    metrics: dict[str, float] = Field(default_factory=dict)


class JobEvent(JobProgress):
    """One report of a running worker. `kind` decides which other fields are set."""

    kind: Literal["started", "progress", "succeeded", "failed", "cancelled"]
    time: float = Field(default_factory=time.time)
    result: JobResult | ImportResult | None = None
    rollouts: LiveWindow | None = None
    """Entropy of the rollouts that were sampled since the last report."""
    length: RolloutLength | None = None
    """The length of rollouts, if the worker had to find it."""
    error: str | None = None


def _without_serializer(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a model without its serializer, whose answers pydantic's JSON schema describes only as objects."""
    inner = {"schema": _without_serializer(schema["schema"])} if schema["type"] == "function-after" else {}
    return {name: part for name, part in (schema | inner).items() if name != "serialization"}


NOT_OPTIONS = {"kind", "seed", "force"}
"""Fields of a request that are no options of the job, so the configuration has none of them."""


class RequestBase(Contract):
    """The options that a user gives for one job. Options that are not given come from the configuration."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of sampling and initialisation."""

    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set - NOT_OPTIONS}

    @model_serializer(mode="wrap")
    def _given_only(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Serialises only what was given, because an option given at its default differs from one not given."""
        return {
            name: value for name, value in serialize(self).items() if name == "kind" or name in self.model_fields_set
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(cast(CoreSchema, _without_serializer(dict(schema))))


class ReheatRequest(RequestBase, ReheatOptions):
    """A request for a reheat, or for a cooling if tau is below 1."""

    former_fields: ClassVar[frozenset[str]] = frozenset({"ceiling_ratio"})

    kind: Literal["reheat"] = "reheat"
    force: bool = False
    """Whether a policy is reheated although it has not collapsed. Unless a target is given, its entropy then rises by a
    fifth."""

    @property
    def heats(self) -> bool:
        return self.tau is None or self.tau > 1


class RLRequest(RequestBase, RLOptions):
    """A request for continued RL."""

    kind: Literal["rl"] = "rl"


class ImportRequest(RequestBase):
    """A request to import an adapter. Only the daemon makes one, after it has taken in the adapter's files."""

    kind: Literal["import"] = "import"
    source: str
    """Name of the file or folder that the user sent."""
    trained_on: str | None = None
    """Base model that the adapter's configuration names."""


TrainingRequest = ReheatRequest | RLRequest
JobRequest = Annotated[ReheatRequest | RLRequest | ImportRequest, Field(discriminator="kind")]


def parse_request(body: Any) -> ReheatRequest | RLRequest:
    """The request for a job that a JSON value holds.

    Raises:
        BadInputError: The value is no such request, or a field is unknown or out of range; `param` names the field.
    """
    kinds: dict[Any, type[ReheatRequest | RLRequest]] = {"reheat": ReheatRequest, "rl": RLRequest}
    if not isinstance(body, dict):
        raise BadInputError(f"the body must be a JSON object, got {type(body).__name__}", param="body")
    if "kind" not in body:
        raise BadInputError(f"kind is required: {' or '.join(kinds)}", param="kind")
    kind = body["kind"]
    if kind == "import":
        raise BadInputError(
            "kind = 'import' needs the adapter's files; PUT them as a tar stream to /reheatd/v1/adapters, or use "
            "`reheatd adapters import`",
            param="kind",
        )
    if not isinstance(kind, str) or kind not in kinds:
        raise BadInputError(f"kind = {kind!r} is not a kind of job; name {' or '.join(kinds)}", param="kind")
    return validated(kinds[kind], body)


def validated(model: type[Request], body: dict[str, Any]) -> Request:
    """The request of one kind that `body` holds.

    Raises:
        BadInputError: A field is unknown or out of range; `param` names it.
    """
    kind = model.model_fields["kind"].default
    for name in sorted(model.former_fields & body.keys()):  # they are dropped from stored requests only
        raise BadInputError(f"{name} has no meaning for a job of kind {kind} any more; leave it out", param=name)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        for name in unknown_names(error):
            hint = suggestion(name, model.model_fields, "leave it out")
            raise BadInputError(f"{name} has no meaning for a job of kind {kind}; {hint}", param=name) from error
        name, message = first_problem(error)
        raise BadInputError(message, param=name or None) from error


class GateResult(Contract):
    """The result of a gate between a trained version and clients."""

    name: str
    outcome: Literal["passed", "failed", "no_evidence"]
    """`no_evidence` means that the measurements cannot tell whether the version is worse."""
    detail: str
    """One line with the figures; with `no_evidence`, also what would settle it."""

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, value: Any) -> Any:
        """Reads a result as reheatd 0.1 stored it, with `passed` as true or false."""
        if isinstance(value, dict) and "passed" in value:
            rest = {name: field for name, field in value.items() if name != "passed"}
            return {**rest, "outcome": "passed" if value["passed"] else "failed"}
        return value


class Job(JobProgress):
    """A job as the daemon keeps and shows it."""

    job_id: str
    kind: Literal["reheat", "rl", "import"]
    status: JobStatus
    trigger: Trigger
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    parent_version: int
    attempt: int = 1
    """How often the job was given to a worker. From the second attempt on, it resumes the work of one that died."""
    version: int | None = None
    """The version that this job published; None before that."""
    request: JobRequest
    error: str | None = None
    gates: list[GateResult] = Field(default_factory=list)
