"""Lineage of an adapter version: where it came from and what was measured on the way."""

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reheatd.jobs.contracts import Accuracy, EntropyEstimate, PassAtK, ProofItem

BASE_MODEL_NAME = "base"
"""Name under which the engine serves the bare model."""
ALIAS_NAME = "policy"
"""Name that always means the promoted version."""


def version_name(version: int) -> str:
    """The model name of a version, e.g. `policy-v3`; version 0 is the bare base model."""
    return f"{ALIAS_NAME}-v{version}"


class Lineage(BaseModel):
    """`lineage.json` of a version; immutable once published."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

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
    spec: dict[str, Any] = {}
    """The job's specification."""
    entropy_before: EntropyEstimate | None = None
    entropy_after: EntropyEstimate | None = None
    accuracy_before: Accuracy | None = None
    accuracy_after: Accuracy | None = None
    pass_at_k_before: PassAtK | None = None
    pass_at_k_after: PassAtK | None = None
    proof: list[ProofItem] = []
    created_at: float = Field(default_factory=time.time)
