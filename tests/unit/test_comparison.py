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
from workers import comparison
from workers.comparison import (
    CHANGE_BINS,
    KL_EDGES,
    TOP_K,
    Completions,
    TokenValues,
    by_position,
    change_edges,
    compare,
    token_figures,
)
from workers.policy import Policy
from workers.sampling.in_process import InProcessSampler
from workers.sampling.rollout import Rollout
from workers.similarity import linear_cka

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


def completions(policy: Policy, count: int = 6) -> Completions:
    """Samples and greedy completions of the policy as it is now."""
    sampler = InProcessSampler(policy, NumberCodec(), [])
    greedy = sampler.sample(number_prompts(count), n=1, max_tokens=9, temperature=0, seed=0)
    return Completions(sample(policy, count), [rollout for group in greedy for rollout in group])


def all_logprobs(policy: Policy, rollouts: Sequence[Rollout]) -> Tensor:
    """log p of every token of the vocabulary in every state [T, V], one rollout at a time, float64."""
    model: Any = policy._model
    parts = []
    for rollout in rollouts:
        ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
        logits_LV = model(input_ids=ids).logits[0].double()
        parts.append(torch.log_softmax(logits_LV[len(rollout.prompt_ids) - 1 : -1], -1))
    return torch.cat(parts).detach()


def sampled_logprobs(logprobs_TV: Tensor, rollouts: Sequence[Rollout]) -> list[float]:
    """log p of the sampled tokens."""
    targets = [token for rollout in rollouts for token in rollout.token_ids]
    return [float(row[token]) for row, token in zip(logprobs_TV, targets, strict=True)]


def test_a_policy_compared_with_itself_has_not_changed() -> None:
    policy = policy_with(0.0)
    own = completions(policy)
    result = compare(policy, own, own)
    for name in ("entropy", "surprisal"):
        parent, student = getattr(result.parent, name), getattr(result.student, name)
        assert parent.mean == pytest.approx(student.mean, abs=1e-5) and parent.tokens == student.tokens
    assert result.parent.greedy == result.student.greedy
    assert result.token_kl.mean == pytest.approx(0, abs=1e-6) == result.kl_student_parent
    assert result.token_kl.histogram.counts[0] == result.states
    assert result.entropy_change.mean == pytest.approx(0, abs=1e-6)
    assert result.entropy_change.histogram.counts[CHANGE_BINS // 2] == result.states
    assert all(top.overlap == 1 for top in result.top_k)
    for top in result.top_k:
        masses = (top.parent_mass, top.student_mass, top.parent_shared_mass, top.student_shared_mass)
        assert masses == pytest.approx([top.parent_mass] * 4)
    assert all(layer.cka == pytest.approx(1, abs=1e-9) for layer in result.layers)


def test_figures_are_those_of_the_plain_computation() -> None:
    policy = policy_with(0.25)
    student = completions(policy)
    with policy.as_teacher():
        parent = completions(policy)
        log_q = all_logprobs(policy, student.sampled)
        own = all_logprobs(policy, parent.sampled)
    log_p = all_logprobs(policy, student.sampled)
    result = compare(policy, parent, student)
    q, p = log_q.exp(), log_p.exp()
    assert result.states == len(p) == sum(len(rollout.token_ids) for rollout in student.sampled)
    kl = (q * (log_q - log_p)).sum(-1)
    assert result.token_kl.mean == pytest.approx(float(kl.mean()), rel=1e-4)
    assert result.token_kl.median == pytest.approx(float(kl.quantile(0.5)), rel=1e-4)
    assert result.kl_student_parent == pytest.approx(float((p * (log_p - log_q)).sum(-1).mean()), rel=1e-4)
    assert result.token_kl.mean > 0.05
    assert sum(result.token_kl.histogram.counts) == result.states
    change = (q * log_q).sum(-1) - (p * log_p).sum(-1)
    assert result.entropy_change.mean == pytest.approx(float(change.mean()), abs=1e-5)
    middle = result.entropy_change.histogram.counts[CHANGE_BINS // 2]
    width = result.entropy_change.histogram.edges[-1] / CHANGE_BINS
    assert middle == int((change.abs() < width).sum())
    for figures, logs, rollouts in ((result.student, log_p, student.sampled), (result.parent, own, parent.sampled)):
        assert figures.entropy.mean == pytest.approx(float(-(logs.exp() * logs).sum(-1).mean()), rel=1e-5)
        taken = sampled_logprobs(logs, rollouts)
        assert figures.surprisal.mean == pytest.approx(-sum(taken) / len(taken), rel=1e-5)
    assert [top.k for top in result.top_k] == list(TOP_K)
    for top in result.top_k:
        parents, students = q.topk(top.k).indices, p.topk(top.k).indices
        shared = [sorted(set(a) & set(b)) for a, b in zip(parents.tolist(), students.tolist(), strict=True)]
        assert top.overlap == pytest.approx(sum(len(both) / top.k for both in shared) / len(shared))
        assert top.parent_mass == pytest.approx(float(q.gather(-1, parents).sum(-1).mean()), rel=1e-5)
        assert top.student_mass == pytest.approx(float(p.gather(-1, students).sum(-1).mean()), rel=1e-5)
        for mass, probabilities in ((top.parent_shared_mass, q), (top.student_shared_mass, p)):
            sums = [float(row[both].sum()) for row, both in zip(probabilities, shared, strict=True)]
            assert mass == pytest.approx(sum(sums) / len(sums), rel=1e-5)
    assert result.top_k[1].overlap < 1


@pytest.mark.parametrize("most", [1024, 10])
def test_layers_are_compared_on_the_same_tokens(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(comparison, "CKA_TOKENS", most)
    policy = policy_with(0.25)
    own = completions(policy)
    model: Any = policy._model
    # A batch orders its rollouts by length, the longest first.
    rollouts = sorted(own.sampled, key=lambda rollout: len(rollout.prompt_ids) + len(rollout.token_ids), reverse=True)
    sides: list[list[Tensor]] = []
    for active in (policy.as_teacher, torch.no_grad):
        with active():
            layers: list[list[Tensor]] = []
            for rollout in rollouts:
                ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
                states = model.model(input_ids=ids, output_hidden_states=True).hidden_states[1:]
                layers.append([layer[0, len(rollout.prompt_ids) - 1 : -1] for layer in states])
            sides.append([torch.cat(parts) for parts in zip(*layers, strict=True)])
    result = compare(policy, own, own)
    stride = -(-result.states // most)
    assert result.layer_tokens == len(sides[0][0][::stride]) <= most
    assert [layer.layer for layer in result.layers] == [1, 2]
    for layer, parent, student in zip(result.layers, *sides, strict=True):
        assert layer.cka == pytest.approx(linear_cka(parent[::stride], student[::stride]), abs=1e-5)
        assert 0.1 < layer.cka < 0.999


def test_positions_are_put_together_and_thin_ones_left_out() -> None:
    entropies = [[1.0, 2.0, 3.0, 4.0, 9.0], [3.0, 4.0, 5.0]]
    values = TokenValues(entropies, [[2 * value for value in row] for row in entropies])
    pairs = by_position(values, 2)
    assert [(bucket.first, bucket.last, bucket.entropy.tokens) for bucket in pairs] == [(0, 1, 4), (2, 3, 3)]
    assert [bucket.entropy.mean for bucket in pairs] == [2.5, 4.0]
    assert [bucket.surprisal.mean for bucket in pairs] == [5.0, 8.0]
    assert [bucket.first for bucket in by_position(values, 1)] == [0, 1, 2]


def test_a_histogram_counts_every_token_once() -> None:
    figures = token_figures([-1.0, 0.0, 0.05, 0.1, 0.99, 1.0, 7.0], [0.0, 0.1, 0.5, 1.0])
    # Below the first edge and beyond the last one counts in the bin there; a lower edge belongs to its bin.
    assert figures.histogram.counts == [3, 1, 3]
    assert figures.histogram.edges == [0.0, 0.1, 0.5, 1.0]
    assert figures.mean == pytest.approx(8.14 / 7) and figures.median == 0.1
    assert token_figures(range(101), KL_EDGES).p95 == pytest.approx(95)


def test_bins_of_a_change_are_symmetric_around_zero() -> None:
    edges = change_edges([-0.5, 2.05])
    assert (len(edges), edges[0], edges[-1]) == (CHANGE_BINS + 1, -2.05, 2.05)
    assert edges[CHANGE_BINS // 2 : CHANGE_BINS // 2 + 2] == pytest.approx([-0.05, 0.05])
    assert change_edges([0.0, 0.0])[-1] == 1e-3


def test_one_rollout_is_too_few_for_an_interval() -> None:
    policy = policy_with(0.0)
    with pytest.raises(BadInputError, match="sequences"):
        compare(policy, completions(policy, 1), completions(policy, 2))
