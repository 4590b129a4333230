"""Lineage of an adapter version: what it came from, and what was measured when it was made."""

import time
from typing import Any, ClassVar, Literal

from pydantic import Field

from reheatd.measures import Accuracy, Contract, EntropyEstimate


class ProofItem(Contract):
    """One probe for the proof of delivery: token ids, and the trainer's logprobs of the completion's tokens."""

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    """log p of each completion token under the new adapter, as the trainer computes it."""
    base_logprobs: list[float]
    """log p of each completion token under the bare base model, as the trainer computes it."""


class Lineage(Contract):
    """`lineage.json` of a version; immutable once published."""

    former_fields: ClassVar[frozenset[str]] = frozenset({"pass_at_k_before", "pass_at_k_after"})

    version: int
    parent: int
    base_model: str
    base_digest: str
    """Digest of the base model's configuration and weight files."""
    digest: str
    """SHA-256 over the adapter's weights and configuration."""
    kind: Literal["reheat", "cool", "rl", "imported"]
    job_id: str | None = None
    tau: float | None = None
    target_entropy: float | None = None
    spec: dict[str, Any] = Field(default_factory=dict)
    """The job's specification."""
    entropy_before: EntropyEstimate | None = None
    entropy_after: EntropyEstimate | None = None
    accuracy_before: Accuracy | None = None
    accuracy_after: Accuracy | None = None
    proof: list[ProofItem] = Field(default_factory=list)
    created_at: float = Field(default_factory=time.time)
