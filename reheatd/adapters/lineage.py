"""Lineage of an adapter version: what it came from, and what was measured when it was made."""

import time
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from reheatd.measures import Accuracy, Contract, EntropyEstimate
from reheatd.options import Remedy
from reheatd.signal import Signal


class ProofItem(Contract):
    """One probe for the proof of delivery: token ids, and the trainer's logprobs of the completion's tokens."""

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    """log p of each completion token under the new adapter, as the trainer computes it."""
    base_logprobs: list[float]
    """log p of each completion token under the bare base model, as the trainer computes it."""


LINEAGE_FORMAT = 1
"""Changes when an earlier reheatd can no longer read `lineage.json`."""
VersionState = Literal["candidate", "promoted", "retired", "rejected", "lost"]
"""`lost` means that the files of a version are gone or damaged, so that it can only be deleted."""


class Lineage(Contract):
    """`lineage.json` of a version; immutable once published."""

    former_fields: ClassVar[frozenset[str]] = frozenset({"pass_at_k_before", "pass_at_k_after"})

    format: int = LINEAGE_FORMAT
    """Format of the file; the first files do not name theirs, which is 1."""
    version: int
    parent: int
    base_model: str
    base_digest: str
    """Digest of the base model's configuration and weight files."""
    digest: str
    """SHA-256 over the adapter's weights and configuration."""
    kind: Literal["reheat", "cool", "rl", "imported"]
    job_id: str | None = None
    remedy: Remedy | None = None
    """How a reheat made the version; None for other kinds, and if an earlier version of reheatd made it."""
    tau: float | None = None
    factor: float | None = None
    """With `shrink`, the factor by which the parent's LoRA was scaled down."""
    target_entropy: float | None = None
    spec: dict[str, Any] = Field(default_factory=dict)
    """The job's specification."""
    entropy_before: EntropyEstimate | None = None
    entropy_after: EntropyEstimate | None = None
    accuracy_before: Accuracy | None = None
    accuracy_after: Accuracy | None = None
    accuracy_base: Accuracy | None = None
    """The base policy's accuracy on the same problems as `accuracy_after`."""
    signal_before: Signal | None = None
    """The parent's signal on the problems that it had lost; None if it was not measured."""
    signal_after: Signal | None = None
    proof: list[ProofItem] = Field(default_factory=list)
    created_at: float = Field(default_factory=time.time)


class VersionInfo(BaseModel):
    """A version as it is listed. Version 0, which is the bare base model, and lost versions have no lineage."""

    model_config = ConfigDict(extra="forbid")

    version: int
    name: str
    state: VersionState
    lineage: Lineage | None
