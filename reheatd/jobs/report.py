"""The report of a finished job: what it changed in the policy. `report.json` beside an adapter is a `JobReport`."""

import time
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from reheatd.errors import ReheatdError
from reheatd.measures import Accuracy, Contract, EntropyEstimate, PassAtK

REPORT_FILE = "report.json"


class PositionEntropy(Contract):
    """Exact entropy at the completion positions `first` to `last`; position 0 predicts the first sampled token."""

    first: int
    last: int
    estimate: EntropyEstimate
    """Over the rollouts that are long enough, nats per token."""


class TopK(Contract):
    """The k most probable tokens of parent and student in the same states; means over states, all between 0 and 1."""

    k: int
    overlap: float
    """Share of the student's k candidates that are among the parent's."""
    parent_mass: float
    """The parent's probability of its own k candidates."""
    parent_mass_kept: float
    """The parent's probability of the student's k candidates; equal to `parent_mass` where the sets are."""
    student_mass: float
    """The student's probability of its own k candidates."""


class LayerSimilarity(Contract):
    """Cosine similarity of the hidden states of parent and student in the same states."""

    layer: int
    """1 is the first block's output; the last is taken after the final norm, where the LM head reads it."""
    mean: float
    """Over states."""
    min: float


class Comparison(Contract):
    """Parent and student on the trainer: full vocabulary, temperature 1, 95% intervals clustered by sequence."""

    parent_entropy: EntropyEstimate
    """Of the parent on its own rollouts, nats per token."""
    student_entropy: EntropyEstimate
    """Of the student on its own rollouts, nats per token."""
    parent_positions: list[PositionEntropy]
    """The parent's by completion position; positions that fewer than two rollouts reach are left out."""
    student_positions: list[PositionEntropy]
    states: int
    """States in which the two are compared below: the tokens of the student's rollouts."""
    kl_parent_student: float
    """KL(parent || student), nats per token."""
    kl_student_parent: float
    """KL(student || parent), nats per token."""
    top_k: list[TopK]
    layers: list[LayerSimilarity]
    """First to last."""

    def top(self, k: int) -> TopK:
        return next(figures for figures in self.top_k if figures.k == k)


class JobReport(Contract):
    """`report.json`: one job's outcome and how the policy changed."""

    job_id: str
    kind: Literal["reheat", "rl"]
    parent_version: int
    created_at: float = Field(default_factory=time.time)
    """Seconds since the epoch."""
    steps: int
    """Optimiser steps taken."""
    stopped: str
    """Why training ended: `target`, `ceiling`, `steps`."""
    seconds: float
    """From the start of the job to its result."""
    tau: float | None
    """The teacher's last temperature; None for RL."""
    target_entropy: float | None
    """Probe entropy that was asked for, nats per token; None where none was."""
    entropy_before: EntropyEstimate
    """Of the parent on the probes, sampled through the server: nats per token."""
    entropy_after: EntropyEstimate
    accuracy_before: Accuracy
    accuracy_after: Accuracy
    pass_at_k_before: PassAtK | None
    pass_at_k_after: PassAtK | None
    """None where `task.eval_samples` is 0."""
    comparison: Comparison


def read_report(folder: Path) -> JobReport:
    """The report in a version's `report` folder.

    Raises:
        ReheatdError: It cannot be read.
    """
    file = folder / REPORT_FILE
    try:
        return JobReport.model_validate_json(file.read_text())
    except (OSError, ValidationError) as error:
        raise ReheatdError(f"{file} cannot be read as a report: {error}; restore it or delete its folder") from error
