"""What training changed in the policy: a comparison of parent and student in the trainer.

TS-OPSD (arXiv 2606.00755) claims to make the output distribution less sharp while it preserves intermediate
representations and top candidate sets. Entropy, |log p| and the distance to the greedy completion are measured for each
policy on its own completions. Everything else compares the two policies in the same states, which are those of the
student's rollouts.

Axes: T tokens, S tokens on which layers are compared, c tokens of a chunk, K ranks, R values of k, D hidden size,
V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from reheatd.entropy.estimators import clustered_interval
from reheatd.errors import TrainingDivergedError
from reheatd.jobs.report import (
    Comparison,
    Histogram,
    LayerSimilarity,
    PolicyFigures,
    PositionFigures,
    TokenFigures,
    TopK,
)
from workers.forks import greedy_distance
from workers.losses import chunk_tokens, chunked_logprobs, entropy, logprobs_of_states
from workers.policy import Policy, TokenBatch, micro_batches
from workers.sampling.rollout import Rollout
from workers.similarity import linear_cka

TOP_K = (1, 5, 10, 20)
CONFIDENCE = 0.95
MAX_POSITIONS = 64
"""Largest number of position buckets; in longer completions, neighbouring positions share a bucket."""
CKA_TOKENS = 1024
"""Largest number of tokens on which layers are compared. Their hidden states of all layers are in memory at once: for
both policies together, 0.6 GB for 36 layers of hidden size 4,096 in bfloat16."""
KL_EDGES = (0.0, *(10 ** (half_decades / 2) for half_decades in range(-12, 5)))
"""Bins of the histogram of token KL, in nats: half decades from 1e-6 to 100, because most tokens hardly change."""
CHANGE_BINS = 41
"""Bins of the histogram of the change of entropy; an odd number, so that one of them has 0 in its middle."""
LEAST_CHANGE = 1e-3
"""The histogram of the change of entropy reaches at least this far, in nats; smaller changes are rounding."""


@dataclass(frozen=True)
class Completions:
    """Completions of one policy for the same prompts."""

    sampled: Sequence[Rollout]
    """Sampled at temperature 1; at least two."""
    greedy: Sequence[Rollout]
    """Sampled at temperature 0, as long at most as the others."""


class Candidates(NamedTuple):
    """Figures on the candidates of parent and student in the same states."""

    kl_T2: Tensor
    """KL(parent || student) and KL(student || parent), in nats."""
    overlap_TR: Tensor
    parent_mass_TR: Tensor
    student_mass_TR: Tensor
    parent_shared_TR: Tensor
    student_shared_TR: Tensor
    entropies_T2: Tensor
    """Entropy of parent and student, in nats."""
    surprisal_T: Tensor
    """|log p| of the sampled token under the student, in nats."""


class TokenValues(NamedTuple):
    """Values of every completion token of every rollout, in nats."""

    entropies: list[list[float]]
    surprisals: list[list[float]]

    @classmethod
    def of(cls, rollouts: Sequence[Rollout]) -> "TokenValues":
        return cls([[] for _ in rollouts], [[] for _ in rollouts])

    def put(self, indices: Sequence[int], entropy_T: Tensor, surprisal_T: Tensor, rollouts: Sequence[Rollout]) -> None:
        """Writes the values of one batch to the places of its rollouts."""
        lengths = [len(rollouts[index].token_ids) for index in indices]
        for values, values_T in ((self.entropies, entropy_T), (self.surprisals, surprisal_T)):
            for index, part_T in zip(indices, values_T.cpu().split(lengths), strict=True):
                values[index] = part_T.tolist()


def compare(policy: Policy, parent: Completions, student: Completions) -> Comparison:
    """Compares the student with the parent that it started from.

    Raises:
        BadInputError: There are too few rollouts for an interval.
        EngineError: Fewer than two samples have a greedy completion.
        TrainingDivergedError: The student's distribution is not finite.
    """
    with policy.as_teacher():
        parent_values = token_values(policy, parent.sampled)
    student_values = TokenValues.of(student.sampled)
    states = sum(len(rollout.token_ids) for rollout in student.sampled)
    layers = _LayerStates(stride=math.ceil(states / CKA_TOKENS))
    parts: list[Candidates] = []
    for indices, batch in _batches(policy, student.sampled):
        with torch.no_grad():
            student_layers = policy.hidden_layers(batch)
        with policy.as_teacher():
            parent_layers = policy.hidden_layers(batch)
        layers.add(parent_layers, student_layers)
        candidates = list(compare_candidates(parent_layers[-1], student_layers[-1], policy.head_VD, batch.targets_T))
        parts += candidates
        entropy_T = torch.cat([part.entropies_T2[:, 1] for part in candidates])
        surprisal_T = torch.cat([part.surprisal_T for part in candidates])
        student_values.put(indices, entropy_T, surprisal_T, student.sampled)
    every = Candidates(*(torch.cat(values).double() for values in zip(*parts, strict=True)))
    kl_student_parent = float(every.kl_T2[:, 1].mean())
    if not math.isfinite(float(every.kl_T2.sum())):
        raise TrainingDivergedError("the student's distribution is not finite; lower the learning rate")
    shares = [figure_TR.mean(0).tolist() for figure_TR in every[1:6]]
    width = math.ceil(max(map(len, parent_values.entropies + student_values.entropies)) / MAX_POSITIONS)
    change_T = every.entropies_T2[:, 1] - every.entropies_T2[:, 0]
    return Comparison(
        parent=_policy_figures(parent_values, parent, width),
        student=_policy_figures(student_values, student, width),
        states=states,
        token_kl=token_figures(every.kl_T2[:, 0].cpu().numpy(), KL_EDGES),
        kl_student_parent=kl_student_parent,
        entropy_change=token_figures(change_T.cpu().numpy(), change_edges(change_T.cpu().numpy())),
        top_k=[
            TopK(
                k=k,
                overlap=overlap,
                parent_mass=parent_mass,
                student_mass=student_mass,
                parent_shared_mass=parent_shared,
                student_shared_mass=student_shared,
            )
            for k, overlap, parent_mass, student_mass, parent_shared, student_shared in zip(TOP_K, *shares, strict=True)
        ],
        layers=layers.similarities(policy.device),
        layer_tokens=layers.tokens,
    )


def token_values(policy: Policy, rollouts: Sequence[Rollout]) -> TokenValues:
    """Exact entropy of the active adapter, and its |log p| of the sampled token, at every completion token."""
    values = TokenValues.of(rollouts)
    for indices, batch in _batches(policy, rollouts):
        logprob_T, entropy_T = chunked_logprobs(policy.hidden(batch), policy.head_VD, batch.targets_T)
        values.put(indices, entropy_T, -logprob_T, rollouts)
    return values


def _policy_figures(values: TokenValues, completions: Completions, width: int) -> PolicyFigures:
    return PolicyFigures(
        entropy=clustered_interval(values.entropies, CONFIDENCE),
        surprisal=clustered_interval(values.surprisals, CONFIDENCE),
        positions=by_position(values, width),
        greedy=greedy_distance(completions.sampled, completions.greedy),
    )


def by_position(values: TokenValues, width: int) -> list[PositionFigures]:
    """Means by completion position, in buckets of `width` positions."""
    longest = max(map(len, values.entropies))
    buckets: list[PositionFigures] = []
    for first in range(0, longest, width):
        entropies, surprisals = ([v[first : first + width] for v in side if len(v) > first] for side in values)
        if len(entropies) > 1:
            buckets.append(
                PositionFigures(
                    first=first,
                    last=min(first + width, longest) - 1,
                    entropy=clustered_interval(entropies, CONFIDENCE),
                    surprisal=clustered_interval(surprisals, CONFIDENCE),
                )
            )
    return buckets


def token_figures(values: ArrayLike, edges: Sequence[float]) -> TokenFigures:
    """Mean, quantiles and histogram of a figure of every token.

    Args:
        edges: Edges of the bins, rising; values beyond the ends are counted in the bin there.
    """
    values_T = np.asarray(values, dtype=np.float64)
    counts, _ = np.histogram(np.clip(values_T, edges[0], edges[-1]), np.asarray(edges))
    p5, median, p95 = np.quantile(values_T, (0.05, 0.5, 0.95)).tolist()
    histogram = Histogram(edges=[*edges], counts=counts.tolist())
    return TokenFigures(mean=float(values_T.mean()), p5=p5, median=median, p95=p95, histogram=histogram)


def change_edges(values: ArrayLike) -> list[float]:
    """Edges of `CHANGE_BINS` equal bins, symmetric around 0, that reach as far as the values."""
    reach = max(LEAST_CHANGE, float(np.abs(np.asarray(values)).max()))
    return np.linspace(-reach, reach, CHANGE_BINS + 1).tolist()


def compare_candidates(
    parent_TD: Tensor, student_TD: Tensor, head_VD: Tensor, targets_T: Tensor
) -> Iterator[Candidates]:
    """Compares the candidates chunk by chunk of the states, so that no [T, V] tensor is ever in memory."""
    size = chunk_tokens(head_VD)
    ranks = torch.tensor(TOP_K, device=head_VD.device) - 1
    for start in range(0, parent_TD.shape[0], size):
        part = slice(start, start + size)
        parent_cV = logprobs_of_states(parent_TD[part], head_VD, size)
        student_cV = logprobs_of_states(student_TD[part], head_VD, size)
        parent_top, student_top = parent_cV.topk(max(TOP_K)), student_cV.topk(max(TOP_K))
        same_cKK = student_top.indices[:, :, None] == parent_top.indices[:, None, :]
        parent_p_cK, student_p_cK = parent_top.values.exp(), student_top.values.exp()
        log_ratio_cV = parent_cV - student_cV
        yield Candidates(
            kl_T2=torch.stack(
                [(parent_cV.exp() * log_ratio_cV).sum(-1), -(student_cV.exp() * log_ratio_cV).sum(-1)], -1
            ),
            overlap_TR=torch.stack([same_cKK[:, :k, :k].sum((1, 2)) / k for k in TOP_K], -1),
            parent_mass_TR=parent_p_cK.cumsum(-1)[:, ranks],
            student_mass_TR=student_p_cK.cumsum(-1)[:, ranks],
            parent_shared_TR=torch.stack(
                [(parent_p_cK[:, :k] * same_cKK[:, :k, :k].any(1)).sum(-1) for k in TOP_K], -1
            ),
            student_shared_TR=torch.stack(
                [(student_p_cK[:, :k] * same_cKK[:, :k, :k].any(2)).sum(-1) for k in TOP_K], -1
            ),
            entropies_T2=torch.stack([entropy(parent_cV), entropy(student_cV)], -1),
            surprisal_T=-student_cV.gather(-1, targets_T[part, None]).squeeze(-1),
        )


class _LayerStates:
    """Hidden states of parent and student on every `stride`-th token, kept until all tokens have been seen."""

    def __init__(self, stride: int) -> None:
        self._stride = stride
        self._seen = 0
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []
        """For each layer, the parts of the parent's and of the student's states, [S, D] together."""

    def add(self, parent: Sequence[Tensor], student: Sequence[Tensor]) -> None:
        """Takes the states [T, D] of the next tokens, layer by layer."""
        first = -self._seen % self._stride
        self._seen += parent[0].shape[0]
        self._pairs = self._pairs or [([], []) for _ in parent]
        for (parent_parts, student_parts), parent_TD, student_TD in zip(self._pairs, parent, student, strict=True):
            parent_parts.append(parent_TD[first :: self._stride].to("cpu", copy=True))
            student_parts.append(student_TD[first :: self._stride].to("cpu", copy=True))

    @property
    def tokens(self) -> int:
        return -(-self._seen // self._stride)

    def similarities(self, device: torch.device) -> list[LayerSimilarity]:
        return [
            LayerSimilarity(layer=layer, cka=linear_cka(*(torch.cat(parts).to(device) for parts in pair)))
            for layer, pair in enumerate(self._pairs, start=1)
        ]


def _batches(policy: Policy, rollouts: Sequence[Rollout]) -> Iterator[tuple[list[int], TokenBatch]]:
    """Yields micro-batches with the indices of their rollouts."""
    lengths = [len(rollout.prompt_ids) + len(rollout.token_ids) for rollout in rollouts]
    for indices in micro_batches(lengths, policy.micro_batch_tokens):
        part = [rollouts[index] for index in indices]
        yield indices, TokenBatch.build([(rollout.prompt_ids, rollout.token_ids) for rollout in part], policy.device)
