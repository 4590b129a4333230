"""Contracts between the daemon and its workers: what a job is asked to do, reports and returns.

Both sides validate with these models; what travels is their JSON.
"""

import math
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from reheatd.adapters.lineage import ProofItem
from reheatd.measures import Accuracy, Contract, EntropyEstimate, PassAtK


class LoraConfig(Contract):
    rank: int = 16
    alpha: float = 32.0
    target_modules: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


class TaskConfig(Contract):
    path: Path | None = None
    """JSONL of verifiable problems; None is the bundled arithmetic task."""
    reward: str = "numeric"
    reward_timeout_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """Longest a reward may take for one completion, in seconds."""
    eval_count: int = 48
    eval_samples: int = 4
    """Completions per held-out problem for pass@k; 0: pass@k is not measured."""


class ProbeConfig(Contract):
    """How the daemon measures the served policy's entropy, so that a worker can measure the same quantity."""

    path: Path | None = None
    count: int = 32
    max_tokens: int = 48
    top_k: int = 20
    confidence: float = 0.95


class JobBase(Contract):
    job_id: str
    parent_version: int
    """Version the job starts from; 0 is the bare base model."""
    parent_adapter: Path | None
    """Folder of the parent version's adapter; None for version 0."""
    model_path: Path
    """Folder of the base model's safetensors, configuration and tokenizer."""
    gateway_url: str
    """Where rollouts are sampled, e.g. http://127.0.0.1:8000."""
    output_dir: Path
    """Folder the worker owns: rollout adapters and the result are written here."""
    lora: LoraConfig = LoraConfig()
    task: TaskConfig = TaskConfig()
    probes: ProbeConfig = ProbeConfig()
    parent_entropy: EntropyEstimate | None = None
    """Probe entropy of the parent version as the daemon measured it last; None: the worker measures it."""
    parent_accuracy: Accuracy | None = None
    """The parent version's accuracy on the same problems; None: the worker measures it."""
    parent_pass_at_k: PassAtK | None = None
    """The parent version's pass@k on the same problems; None: the worker measures it if `task.eval_samples` asks."""
    seed: int = 0

    @property
    def checkpoint_file(self) -> Path:
        """From which another worker resumes the job; it lives as long as the job."""
        return self.output_dir / "checkpoint.pt"


class ReheatSpec(JobBase):
    """TS-OPSD (arXiv 2606.00755): distil the policy's own logits divided by tau back into it, on its rollouts."""

    kind: Literal["reheat"] = "reheat"
    tau: float | None = None
    """Teacher temperature; > 1 reheats, < 1 cools; None: found by bisection from `target_entropy`."""
    target_entropy: float | None = None
    """Probe entropy, nats per token, at which to stop; None: run all steps."""
    max_entropy: float | None = None
    """Probe entropy, nats per token, at which a job with tau > 1 and without a target stops before its last step; a tau
    that leads beyond is lowered."""
    steps: int = 30
    teacher: Literal["frozen", "live"] = "frozen"
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    min_p: float | None = None
    learning_rate: float = 1e-3
    prompts_per_step: int = 8
    max_tokens: int = 48
    refresh_every: int = 4

    @field_validator("tau", "target_entropy", "max_entropy")
    @classmethod
    def _positive(cls, value: float | None) -> float | None:
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"must be a finite number above 0, got {value}")
        return value


class RLSpec(JobBase):
    """Continued RL: group-relative policy gradient with verifiable rewards."""

    kind: Literal["rl"] = "rl"
    steps: int = 20
    prompts_per_step: int = 4
    group_size: int = 4
    max_tokens: int = 48
    learning_rate: float = 1e-4
    temperature: float = 1.0
    epochs: int = 1
    """Optimiser steps taken on each batch of rollouts."""
    clip_low: float = 0.2
    clip_high: float = 0.28
    """The ratio to the policy before the first of these steps is clipped to [1 - clip_low, 1 + clip_high]."""
    importance_cap: float = 2.0
    """Truncation of the importance weight between trainer and sampler."""
    normalise_std: bool = False
    """Whether advantages are divided by their group's standard deviation."""
    normalisation: Literal["tokens", "constant"] = "tokens"
    """What a batch's summed loss is divided by: its tokens, or the tokens it could have had (`constant`)."""
    max_resamples: int = 2
    """Further batches that are sampled to replace groups whose rewards are all equal."""
    mask_truncated: bool = False
    """Whether rollouts that ended for length are left out of the loss."""
    kl_coef: float = 0.0
    """Weight of KL(student || parent) in the loss."""


JobSpec = Annotated[ReheatSpec | RLSpec, Field(discriminator="kind")]


class JobResult(Contract):
    """What a finished job hands over; the daemon validates, publishes, gates and swaps it."""

    adapter_dir: Path
    """Folder with `adapter_model.safetensors` and `adapter_config.json`."""
    report_dir: Path | None = None
    """Folder with `report.json`, `report.md` and plots; it is published with the adapter."""
    steps: int
    tau: float | None = None
    entropy_before: EntropyEstimate
    entropy_after: EntropyEstimate
    accuracy_before: Accuracy
    accuracy_after: Accuracy
    pass_at_k_before: PassAtK | None = None
    pass_at_k_after: PassAtK | None = None
    proof: list[ProofItem]
    metrics: dict[str, float] = Field(default_factory=dict)
    """Last values of the training metrics."""
    stopped: str
    """Why training ended: `target`, `ceiling`, `steps`."""
    seconds: float


class JobStatus(StrEnum):
    AWAITING_APPROVAL = "awaiting_approval"
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


class JobEvent(Contract):
    """One report of a running worker. `kind` decides which other fields are set."""

    kind: Literal["started", "progress", "succeeded", "failed", "cancelled"]
    time: float = Field(default_factory=time.time)
    phase: str = ""
    """What is being done, e.g. `sampling`, `training`, `evaluating`."""
    step: int = 0
    steps: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    result: JobResult | None = None
    error: str | None = None


class JobRequest(Contract):
    """What a user asks for over the API; unset fields take the daemon's configuration."""

    kind: Literal["reheat", "rl"]
    tau: float | None = None
    target_ratio: float | None = None
    """Entropy target as a share of the baseline."""
    target_entropy: float | None = None
    steps: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    temperature: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    teacher: Literal["frozen", "live"] | None = None
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] | None = None
    min_p: float | None = Field(default=None, gt=0, lt=1)
    seed: int = 0

    @field_validator("tau", "target_ratio", "target_entropy")
    @classmethod
    def _positive(cls, value: float | None) -> float | None:
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"must be a finite number above 0, got {value}")
        return value


class Job(Contract):
    """A job as the daemon keeps and shows it."""

    job_id: str
    kind: Literal["reheat", "rl"]
    status: JobStatus
    trigger: Literal["manual", "collapse", "follow_up"]
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    parent_version: int
    attempt: int = 1
    """How often it was given to a worker; from the second on it resumes what a worker that died had done."""
    version: int | None = None
    """The version this job published, once it has."""
    request: JobRequest
    phase: str = ""
    step: int = 0
    steps: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    error: str | None = None
    gates: list[dict[str, Any]] = Field(default_factory=list)
    """Results of the gates: {"name", "passed", "detail"}."""
