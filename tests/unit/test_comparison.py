"""What a report says about parent and student, against the plain computation with all logits in memory."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from reheatd.errors import BadInputError
from reheatd.options import LoraOptions
from tests.unit.workers_support import NumberCodec, number_prompts, tiny_model
from workers.comparison import TOP_K, by_position, compare
from workers.policy import Policy
from workers.sampling.in_process import InProcessSampler
from workers.sampling.rollout import Rollout

LORA = LoraOptions(rank=4, alpha=8)


def policy_with(scale: float) -> Policy:
    """A student whose LoRA product is random, with entries of about `scale`."""
    policy = Policy.on_model(tiny_model(), None, LORA)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return policy


def sample(policy: Policy, count: int = 6) -> list[Rollout]:
    """Completions of different lengths."""
    sampler = InProcessSampler(policy, NumberCodec(), [])
    lengths = random.Random(0)
    groups = [
        sampler.sample([prompt], n=1, max_tokens=lengths.randint(3, 9), temperature=1.0, seed=seed)[0]
        for seed, prompt in enumerate(number_prompts(count))
    ]
    return [rollout for group in groups for rollout in group]


def all_logprobs(policy: Policy, rollouts: Sequence[Rollout]) -> Tensor:
    """log p of every token of the vocabulary in every state [T, V], one rollout at a time, float64."""
    model: Any = policy._model
    parts = []
    for rollout in rollouts:
        ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
        logits_LV = model(input_ids=ids).logits[0].double()
        parts.append(torch.log_softmax(logits_LV[len(rollout.prompt_ids) - 1 : -1], -1))
    return torch.cat(parts).detach()


def test_a_policy_compared_with_itself_has_not_changed() -> None:
    policy = policy_with(0.0)
    rollouts = sample(policy)
    result = compare(policy, rollouts, rollouts)
    assert result.parent_entropy == result.student_entropy
    assert result.parent_positions == result.student_positions
    assert result.kl_parent_student == pytest.approx(0, abs=1e-6) == result.kl_student_parent
    assert all(top.overlap == 1 and top.parent_mass == top.student_mass == top.parent_mass_kept for top in result.top_k)
    assert all(layer.mean == pytest.approx(1) and layer.min == pytest.approx(1) for layer in result.layers)


def test_figures_are_those_of_the_plain_computation() -> None:
    policy = policy_with(0.25)
    student_rollouts = sample(policy)
    with policy.as_teacher():
        parent_rollouts = sample(policy)
        log_q = all_logprobs(policy, student_rollouts)
        own = all_logprobs(policy, parent_rollouts)
    log_p = all_logprobs(policy, student_rollouts)
    result = compare(policy, parent_rollouts, student_rollouts)
    q, p = log_q.exp(), log_p.exp()
    assert result.states == len(p) == sum(len(rollout.token_ids) for rollout in student_rollouts)
    assert result.kl_parent_student == pytest.approx(float((q * (log_q - log_p)).sum(-1).mean()), rel=1e-4)
    assert result.kl_student_parent == pytest.approx(float((p * (log_p - log_q)).sum(-1).mean()), rel=1e-4)
    assert result.kl_parent_student > 0.05
    assert result.student_entropy.mean == pytest.approx(float(-(p * log_p).sum(-1).mean()), rel=1e-5)
    assert result.parent_entropy.mean == pytest.approx(float(-(own.exp() * own).sum(-1).mean()), rel=1e-5)
    assert [top.k for top in result.top_k] == list(TOP_K)
    for top in result.top_k:
        parents, students = q.topk(top.k).indices, p.topk(top.k).indices
        shared = [len(set(a) & set(b)) / top.k for a, b in zip(parents.tolist(), students.tolist(), strict=True)]
        assert top.overlap == pytest.approx(sum(shared) / len(shared))
        assert top.parent_mass == pytest.approx(float(q.gather(-1, parents).sum(-1).mean()), rel=1e-5)
        assert top.parent_mass_kept == pytest.approx(float(q.gather(-1, students).sum(-1).mean()), rel=1e-5)
        assert top.student_mass == pytest.approx(float(p.gather(-1, students).sum(-1).mean()), rel=1e-5)


def test_hidden_states_are_compared_layer_by_layer() -> None:
    policy = policy_with(0.25)
    rollouts = sample(policy)
    model: Any = policy._model
    sides: list[list[Tensor]] = []
    for active in (policy.as_teacher, torch.no_grad):
        with active():
            layers: list[list[Tensor]] = []
            for rollout in rollouts:
                ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
                states = model.model(input_ids=ids, output_hidden_states=True).hidden_states[1:]
                layers.append([layer[0, len(rollout.prompt_ids) - 1 : -1] for layer in states])
            sides.append([torch.cat(parts) for parts in zip(*layers, strict=True)])
    result = compare(policy, rollouts, rollouts)
    assert [layer.layer for layer in result.layers] == [1, 2]
    for layer, parent, student in zip(result.layers, *sides, strict=True):
        cosine = torch.cosine_similarity(parent, student, dim=-1)
        assert layer.mean == pytest.approx(float(cosine.mean()), abs=1e-5)
        assert layer.min == pytest.approx(float(cosine.min()), abs=1e-5)
        assert layer.min < 0.999


def test_positions_are_put_together_and_thin_ones_left_out() -> None:
    entropies = [[1.0, 2.0, 3.0, 4.0, 9.0], [3.0, 4.0, 5.0]]
    pairs = by_position(entropies, 2)
    assert [(bucket.first, bucket.last, bucket.estimate.tokens) for bucket in pairs] == [(0, 1, 4), (2, 3, 3)]
    assert [bucket.estimate.mean for bucket in pairs] == [2.5, 4.0]
    assert [bucket.first for bucket in by_position(entropies, 1)] == [0, 1, 2]


def test_one_rollout_is_too_few_for_an_interval() -> None:
    policy = policy_with(0.0)
    with pytest.raises(BadInputError, match="sequences"):
        compare(policy, sample(policy, 1), sample(policy, 2))
