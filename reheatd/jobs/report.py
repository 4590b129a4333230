"""The report of a finished job, which says what the job changed in the policy.

The file `report.json` beside an adapter is a `JobReport`.
"""

import json
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from reheatd.errors import ReheatdError
from reheatd.measures import Accuracy, Contract, EntropyEstimate
from reheatd.options import Remedy
from reheatd.signal import Signal

REPORT_FILE = "report.json"
REPORT_FORMAT = 3


class PositionFigures(Contract):
    """Figures of one policy at the completion positions `first` to `last`; position 0 is the first sampled token."""

    first: int
    last: int
    entropy: EntropyEstimate
    """Exact entropy over the rollouts that are long enough, in nats per token."""
    surprisal: EntropyEstimate
    """Mean |log p| of the sampled tokens over the same rollouts, in nats per token."""


class Histogram(Contract):
    """Number of tokens by value. A bin includes its lower edge; the last one includes both."""

    edges: list[float]
    """Edges of the bins, rising; one more than `counts`. Values beyond the ends are counted in the bin there."""
    counts: list[int]


class TokenFigures(Contract):
    """A figure that every token has, over all states in which parent and student are compared."""

    mean: float
    p5: float
    """5% of the tokens have less."""
    median: float
    p95: float
    """5% of the tokens have more."""
    histogram: Histogram


class TopK(Contract):
    """The k most probable tokens of parent and student in the same states: means over states, between 0 and 1."""

    k: int
    overlap: float
    """Share of the student's k candidates that are among the parent's."""
    parent_mass: float
    """Probability that the parent gives to its own k candidates."""
    student_mass: float
    """Probability that the student gives to its own k candidates."""
    parent_shared_mass: float
    """Probability that the parent gives to the candidates of both; `parent_mass` if the candidates are the same."""
    student_shared_mass: float
    """Probability that the student gives to the candidates of both."""


class LayerSimilarity(Contract):
    """Linear CKA of a layer's hidden states of parent and student on the same tokens (arXiv 1905.00414)."""

    layer: int
    """Layer 1 is the first block's output; the last is taken after the final norm, where the LM head reads it."""
    cka: float
    """Between 0 and 1; 1 if the states are the same up to rotation, shift and one common scale."""


class MeanOverRollouts(Contract):
    """A mean over rollouts with its 95% interval."""

    mean: float
    low: float
    high: float
    rollouts: int


class GreedyDistance(Contract):
    """How far one policy's samples at temperature 1 are from its own greedy completions of the same prompts."""

    fork_position: MeanOverRollouts
    """First position, from 0, at which a sample leaves the greedy completion, in tokens. A sample that never leaves it
    counts with its length."""
    never_forked: float
    """Share of samples that never leave the greedy completion."""
    edit_distance: MeanOverRollouts
    """Levenshtein distance in tokens, divided by the longer of the two completions: between 0 and 1."""


class PolicyFigures(Contract):
    """Figures of one policy on its own completions."""

    entropy: EntropyEstimate
    """Exact entropy at the sampled tokens, in nats per token."""
    surprisal: EntropyEstimate
    """Mean |log p| of the sampled tokens, in nats per token; at temperature 1 its expectation is the entropy."""
    positions: list[PositionFigures]
    """Figures by completion position; positions that fewer than two rollouts reach are left out."""
    greedy: GreedyDistance


class Comparison(Contract):
    """Comparison of parent and student in the trainer, over the full vocabulary at temperature 1.

    The figures are those with which arXiv 2606.00755 shows what TS-OPSD changes. Intervals are 95% intervals, clustered
    by sequence.
    """

    parent: PolicyFigures
    student: PolicyFigures
    states: int
    """Number of states in which the two are compared below: the tokens of the student's rollouts."""
    token_kl: TokenFigures
    """KL(parent || student) of every token, in nats."""
    kl_student_parent: float
    """Mean of KL(student || parent), in nats per token."""
    entropy_change: TokenFigures
    """Entropy of the student less that of the parent in the same state, in nats."""
    top_k: list[TopK]
    layers: list[LayerSimilarity]
    """Similarity of every layer, first to last."""
    layer_tokens: int
    """Number of tokens on which the layers are compared: all states, or an even selection of them."""

    def top(self, k: int) -> TopK:
        return next(figures for figures in self.top_k if figures.k == k)


class JobReport(Contract):
    """One job's outcome, and how it changed the policy."""

    format: Literal[3] = REPORT_FORMAT
    """Changes when figures are added or removed."""
    job_id: str
    kind: Literal["reheat", "rl"]
    parent_version: int
    created_at: float = Field(default_factory=time.time)
    """Seconds since the epoch."""
    steps: int
    """Optimiser steps taken."""
    stopped: str
    """Why training ended: `target`, `steps` or `no_signal`."""
    why_stopped: str | None
    """With `no_signal`, one line about the groups of the last steps; otherwise None."""
    seconds: float
    """Time from the start of the job to its result."""
    remedy: Remedy | None
    """How the policy was reheated; None for RL."""
    tau: float | None
    """The teacher's last temperature; None for remedies without a teacher and for RL."""
    factor: float | None
    """With `shrink`, the factor by which the parent's LoRA was scaled down."""
    target_entropy: float | None
    """Probe entropy that was asked for, in nats per token; None if the job had no target."""
    entropy_before: EntropyEstimate
    """Entropy of the parent on the probes, sampled through the server, in nats per token."""
    entropy_after: EntropyEstimate
    accuracy_before: Accuracy
    accuracy_after: Accuracy
    signal_before: Signal | None
    """The parent's signal on the problems that it had lost; None if it was not measured."""
    signal_after: Signal | None
    comparison: Comparison


def read_report(folder: Path) -> JobReport | None:
    """The report in a version's `report` folder; None if an earlier reheatd wrote it, with other figures.

    Raises:
        ReheatdError: The report cannot be read.
    """
    file = folder / REPORT_FILE
    try:
        values = json.loads(file.read_text())
        if isinstance(values, dict) and values.get("format", 1) != REPORT_FORMAT:
            return None
        return JobReport.model_validate(values)
    except (OSError, ValueError) as error:
        raise ReheatdError(f"{file} cannot be read as a report: {error}; restore it or delete its folder") from error
