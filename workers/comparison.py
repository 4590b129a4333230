"""What training changed in the policy: a comparison of parent and student in the trainer.

TS-OPSD (arXiv 2606.00755) claims to make the output distribution less sharp while it preserves intermediate
representations and top candidate sets. Entropy is measured for each policy on its own rollouts. Everything else
compares the two policies in the same states, which are those of the student's rollouts.

Axes: T tokens, c tokens of a chunk, K ranks, S values of k, D hidden size, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reheatd.entropy.estimators import clustered_interval
from reheatd.jobs.report import Comparison, LayerSimilarity, PositionEntropy, TopK
from workers.losses import chunk_tokens, chunked_logprobs, entropy, logprobs_of_states
from workers.optimisation import TrainingDivergedError
from workers.policy import Policy, TokenBatch, micro_batches
from workers.sampling.rollout import Rollout

TOP_K = (1, 5, 10, 20)
CONFIDENCE = 0.95
MAX_POSITIONS = 64
"""Largest number of position buckets; in longer completions, neighbouring positions share a bucket."""


class Candidates(NamedTuple):
    """Figures on the candidates of parent and student in the same states."""

    kl_T2: Tensor
    """KL(parent || student) and KL(student || parent), in nats."""
    overlap_TS: Tensor
    parent_mass_TS: Tensor
    kept_mass_TS: Tensor
    student_mass_TS: Tensor
    entropy_T: Tensor
    """Entropy of the student, in nats."""


def compare(policy: Policy, parent_rollouts: Sequence[Rollout], student_rollouts: Sequence[Rollout]) -> Comparison:
    """Compares the student with the parent that it started from.

    Args:
        parent_rollouts: Completions that the parent sampled at temperature 1; at least two.
        student_rollouts: Completions that the student sampled at temperature 1; at least two.

    Raises:
        BadInputError: There are too few rollouts for an interval.
        TrainingDivergedError: The student's distribution is not finite.
    """
    with policy.as_teacher():
        parent_entropies = sequence_entropies(policy, parent_rollouts)
    student_entropies: list[list[float]] = [[] for _ in student_rollouts]
    cosines: list[Tensor] = []
    parts: list[Candidates] = []
    for indices, batch in _batches(policy, student_rollouts):
        with torch.no_grad():
            student_layers = policy.hidden_layers(batch)
        with policy.as_teacher():
            parent_layers = policy.hidden_layers(batch)
        pairs = zip(parent_layers, student_layers, strict=True)
        cosines.append(torch.stack([torch.cosine_similarity(p.float(), s.float(), dim=-1) for p, s in pairs]))
        candidates = list(compare_candidates(parent_layers[-1], student_layers[-1], policy.head_VD))
        parts += candidates
        entropy_T = torch.cat([part.entropy_T for part in candidates])
        _split(entropy_T, indices, student_rollouts, student_entropies)
    means = Candidates(*(torch.cat(values).double().mean(0) for values in zip(*parts, strict=True)))
    kl_parent_student, kl_student_parent = means.kl_T2.tolist()
    if not math.isfinite(kl_parent_student + kl_student_parent):
        raise TrainingDivergedError("the student's distribution is not finite; lower the learning rate")
    similarity = torch.cat(cosines, dim=1)
    width = math.ceil(max(map(len, parent_entropies + student_entropies)) / MAX_POSITIONS)
    return Comparison(
        parent_entropy=clustered_interval(parent_entropies, CONFIDENCE),
        student_entropy=clustered_interval(student_entropies, CONFIDENCE),
        parent_positions=by_position(parent_entropies, width),
        student_positions=by_position(student_entropies, width),
        states=similarity.shape[1],
        kl_parent_student=kl_parent_student,
        kl_student_parent=kl_student_parent,
        top_k=[
            TopK(k=k, overlap=overlap, parent_mass=parent, parent_mass_kept=kept, student_mass=student)
            for k, overlap, parent, kept, student in zip(TOP_K, *(v.tolist() for v in means[1:5]), strict=True)
        ],
        layers=[
            LayerSimilarity(layer=layer, mean=float(values_T.mean()), min=float(values_T.min()))
            for layer, values_T in enumerate(similarity, start=1)
        ],
    )


def sequence_entropies(policy: Policy, rollouts: Sequence[Rollout]) -> list[list[float]]:
    """The exact entropy of the active adapter at every completion token of every rollout, in nats."""
    entropies: list[list[float]] = [[] for _ in rollouts]
    for indices, batch in _batches(policy, rollouts):
        _, entropy_T = chunked_logprobs(policy.hidden(batch), policy.head_VD, batch.targets_T)
        _split(entropy_T, indices, rollouts, entropies)
    return entropies


def _split(
    entropy_T: Tensor, indices: Sequence[int], rollouts: Sequence[Rollout], entropies: list[list[float]]
) -> None:
    """Writes the entropies of one batch to the places of its rollouts in `entropies`."""
    parts = entropy_T.cpu().split([len(rollouts[index].token_ids) for index in indices])
    for index, part_T in zip(indices, parts, strict=True):
        entropies[index] = part_T.tolist()


def by_position(entropies: Sequence[Sequence[float]], width: int) -> list[PositionEntropy]:
    """Mean entropy by completion position, in buckets of `width` positions."""
    longest = max(map(len, entropies))
    buckets: list[PositionEntropy] = []
    for first in range(0, longest, width):
        reached = [values[first : first + width] for values in entropies if len(values) > first]
        if len(reached) > 1:
            estimate = clustered_interval(reached, CONFIDENCE)
            buckets.append(PositionEntropy(first=first, last=min(first + width, longest) - 1, estimate=estimate))
    return buckets


def compare_candidates(parent_TD: Tensor, student_TD: Tensor, head_VD: Tensor) -> Iterator[Candidates]:
    """Compares the candidates chunk by chunk of the states, so that no [T, V] tensor is ever in memory."""
    size = chunk_tokens(head_VD.shape[0])
    ranks = torch.tensor(TOP_K, device=head_VD.device) - 1
    for start in range(0, parent_TD.shape[0], size):
        part = slice(start, start + size)
        parent_cV = logprobs_of_states(parent_TD[part], head_VD, size)
        student_cV = logprobs_of_states(student_TD[part], head_VD, size)
        parent_top, student_top = parent_cV.topk(max(TOP_K)), student_cV.topk(max(TOP_K))
        shared_cKK = student_top.indices[:, :, None] == parent_top.indices[:, None, :]
        kept_cK = parent_cV.gather(-1, student_top.indices)
        log_ratio_cV = parent_cV - student_cV
        yield Candidates(
            kl_T2=torch.stack(
                [(parent_cV.exp() * log_ratio_cV).sum(-1), -(student_cV.exp() * log_ratio_cV).sum(-1)], -1
            ),
            overlap_TS=torch.stack([shared_cKK[:, :k, :k].sum((1, 2)) / k for k in TOP_K], -1),
            parent_mass_TS=parent_top.values.exp().cumsum(-1)[:, ranks],
            kept_mass_TS=kept_cK.exp().cumsum(-1)[:, ranks],
            student_mass_TS=student_top.values.exp().cumsum(-1)[:, ranks],
            entropy_T=entropy(student_cV),
        )


def _batches(policy: Policy, rollouts: Sequence[Rollout]) -> Iterator[tuple[list[int], TokenBatch]]:
    """Yields micro-batches with the indices of their rollouts."""
    lengths = [len(rollout.prompt_ids) + len(rollout.token_ids) for rollout in rollouts]
    for indices in micro_batches(lengths, policy.micro_batch_tokens):
        part = [rollouts[index] for index in indices]
        yield indices, TokenBatch.build([(rollout.prompt_ids, rollout.token_ids) for rollout in part], policy.device)
