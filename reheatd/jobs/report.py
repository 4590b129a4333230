"""The report of a finished job, which says what the job changed in the policy.

The file `report.json` beside an adapter is a `JobReport`.
"""

import time
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationError

from reheatd.errors import ReheatdError
from reheatd.measures import Accuracy, Contract, EntropyEstimate

REPORT_FILE = "report.json"


class PositionEntropy(Contract):
    """Exact entropy at the completion positions `first` to `last`; position 0 predicts the first sampled token."""

    first: int
    last: int
    estimate: EntropyEstimate
    """Estimate over the rollouts that are long enough, in nats per token."""


class TopK(Contract):
    """The k most probable tokens of parent and student in the same states: means over states, between 0 and 1."""

    k: int
    overlap: float
    """Share of the student's k candidates that are among the parent's."""
    parent_mass: float
    """Probability that the parent gives to its own k candidates."""
    parent_mass_kept: float
    """Probability that the parent gives to the student's k candidates; `parent_mass` if the candidates are the same."""
    student_mass: float
    """Probability that the student gives to its own k candidates."""


class LayerSimilarity(Contract):
    """Cosine similarity of the hidden states of parent and student in the same states."""

    layer: int
    """Layer 1 is the first block's output; the last is taken after the final norm, where the LM head reads it."""
    mean: float
    """Mean over states."""
    min: float


class Comparison(Contract):
    """Comparison of parent and student in the trainer, over the full vocabulary at temperature 1.

    Intervals are 95% intervals, clustered by sequence.
    """

    parent_entropy: EntropyEstimate
    """Entropy of the parent on its own rollouts, in nats per token."""
    student_entropy: EntropyEstimate
    """Entropy of the student on its own rollouts, in nats per token."""
    parent_positions: list[PositionEntropy]
    """Entropy of the parent by completion position; positions that fewer than two rollouts reach are left out."""
    student_positions: list[PositionEntropy]
    states: int
    """Number of states in which the two are compared below: the tokens of the student's rollouts."""
    kl_parent_student: float
    """KL(parent || student), in nats per token."""
    kl_student_parent: float
    """KL(student || parent), in nats per token."""
    top_k: list[TopK]
    layers: list[LayerSimilarity]
    """Similarity of every layer, first to last."""

    def top(self, k: int) -> TopK:
        return next(figures for figures in self.top_k if figures.k == k)


class JobReport(Contract):
    """One job's outcome, and how it changed the policy."""

    former_fields: ClassVar[frozenset[str]] = frozenset({"pass_at_k_before", "pass_at_k_after"})

    job_id: str
    kind: Literal["reheat", "rl"]
    parent_version: int
    created_at: float = Field(default_factory=time.time)
    """Seconds since the epoch."""
    steps: int
    """Optimiser steps taken."""
    stopped: str
    """Why training ended: `target` or `steps`."""
    seconds: float
    """Time from the start of the job to its result."""
    tau: float | None
    """The teacher's last temperature; None for RL."""
    target_entropy: float | None
    """Probe entropy that was asked for, in nats per token; None if the job had no target."""
    entropy_before: EntropyEstimate
    """Entropy of the parent on the probes, sampled through the server, in nats per token."""
    entropy_after: EntropyEstimate
    accuracy_before: Accuracy
    accuracy_after: Accuracy
    comparison: Comparison


def read_report(folder: Path) -> JobReport:
    """The report in a version's `report` folder.

    Raises:
        ReheatdError: The report cannot be read.
    """
    file = folder / REPORT_FILE
    try:
        return JobReport.model_validate_json(file.read_text())
    except (OSError, ValidationError) as error:
        raise ReheatdError(f"{file} cannot be read as a report: {error}; restore it or delete its folder") from error
