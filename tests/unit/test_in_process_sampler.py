"""Sampling in the trainer's own process: what is sampled, and that sampling leaves the policy as it was."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.plain_sampling import PlainSampler
from reheatd.errors import TrainingDivergedError
from reheatd.json_lines import Messages
from tests.unit.test_comparison import LORA, policy_with
from tests.unit.workers_support import NumberCodec, number_prompts, tiny_llama, tiny_mistral, tiny_model
from workers.policy import Policy, TokenBatch
from workers.sampling import in_process
from workers.sampling.in_process import InProcessSampler

BATCH = TokenBatch.build([([1, 2, 3], [4, 5]), ([6], [7, 8, 9, 10, 11])], torch.device("cpu"))


class StoppingCodec(NumberCodec):
    """A part of the vocabulary ends a completion."""

    stop_ids = frozenset(range(0, 97, 7))


def prompts(lengths: Sequence[int]) -> list[Messages]:
    """Four prompts of each length, two of which are equal."""
    found = []
    for length in lengths:
        first, *others = number_prompts(3, length)
        found += [first, first, *others]
    return found


def with_parent(tmp_path: Path) -> Policy:
    """A policy whose student differs from its teacher, and both from the base."""
    policy_with(0.1).save(tmp_path / "parent", tmp_path)
    policy = Policy.on_model(tiny_model(), None, LORA, tmp_path / "parent")
    for weight in policy.parameters():
        weight.data.mul_(1.2)
    return policy


def assert_same_as_plain(
    policy: Policy, asked: list[Messages], *, temperature: float = 1.0, top_p: float = 1.0
) -> None:
    codec = StoppingCodec()
    encoded = [codec.encode(messages) for messages in asked for _ in range(4)]
    sampled, plain = (
        kind(policy, codec, [])._complete(encoded, 9, temperature, top_p, 0)
        for kind in (InProcessSampler, PlainSampler)
    )
    assert not temperature or {completion.stopped for completion in plain} == {True, False}
    for one, other in zip(sampled, plain, strict=True):
        assert (one.token_ids, one.stopped) == (other.token_ids, other.stopped)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5, rel=1e-5)
        assert one.entropies == pytest.approx(other.entropies, abs=1e-5)


@pytest.mark.parametrize("lengths", [[5], [5, 2, 7]])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8), (0.0, 1.0)])
def test_a_seed_gives_the_same_tokens_as_the_plain_way(lengths: list[int], temperature: float, top_p: float) -> None:
    assert_same_as_plain(policy_with(0.1), prompts(lengths), temperature=temperature, top_p=top_p)


def test_it_does_not_matter_where_a_large_batch_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut changes which random numbers a seed means, in both ways alike."""
    monkeypatch.setattr(in_process, "MAX_ROWS", 6)  # in the middle of a prompt's completions
    assert_same_as_plain(policy_with(0.1), prompts([5, 2]))


@pytest.mark.parametrize("model", [tiny_llama, tiny_mistral])
def test_other_models_are_sampled_as_well(model: Callable[[], Any]) -> None:
    """Mistral is computed by transformers, and forgets tokens."""
    policy = Policy.on_model(model(), None, LORA)
    for weight in policy.parameters():
        weight.data.add_(0.03)
    assert_same_as_plain(policy, prompts([5, 2]))


def test_a_policy_in_bfloat16_is_sampled_as_the_trainer_computes_it() -> None:
    policy = Policy.on_model(tiny_model().to(torch.bfloat16), None, LORA)  # pyright: ignore[reportArgumentType]
    sampler = InProcessSampler(policy, NumberCodec(), [])
    (rollouts,) = sampler.sample(number_prompts(1), n=4, max_tokens=9, temperature=1.0, seed=0)
    exact = policy.logprobs([(rollout.prompt_ids, rollout.token_ids) for rollout in rollouts])
    for rollout, logprobs in zip(rollouts, exact, strict=True):
        assert rollout.logprobs == pytest.approx(logprobs, abs=0.1)


def test_a_diverged_policy_is_an_error() -> None:
    policy = policy_with(math.inf)
    with pytest.raises(TrainingDivergedError, match="not finite"):
        InProcessSampler(policy, NumberCodec(), []).sample(
            number_prompts(1), n=2, max_tokens=2, temperature=1.0, seed=0
        )


@pytest.mark.parametrize("role", ["student", "teacher", "base"])
def test_the_adapter_that_is_active_is_sampled(tmp_path: Path, role: str) -> None:
    policy = with_parent(tmp_path)
    with {"student": nullcontext, "teacher": policy.as_teacher, "base": policy.as_base}[role]():
        assert_same_as_plain(policy, prompts([5, 2]))


def test_a_sampler_follows_the_policy_as_it_learns_and_changes_its_role(tmp_path: Path) -> None:
    policy = with_parent(tmp_path)
    sampler = InProcessSampler(policy, StoppingCodec(), [])

    def logprobs() -> list[list[float]]:
        (rollouts,) = sampler.sample(prompts([5])[:1], n=2, max_tokens=3, temperature=0.0, seed=0)
        exact = policy.logprobs([(rollout.prompt_ids, rollout.token_ids) for rollout in rollouts])
        for rollout, expected in zip(rollouts, exact, strict=True):
            assert rollout.logprobs == pytest.approx(expected, abs=1e-5)
        return exact

    found = [logprobs()]
    for weight in policy.parameters():
        weight.data.mul_(1.5)
    found.append(logprobs())
    with policy.as_teacher():
        found.append(logprobs())
    assert found[0] != found[1] != found[2] != found[0]


def everything(policy: Policy) -> dict[str, Any]:
    """All weights, what each role computes, and the student's gradients."""
    states = {name: weight.clone() for name, weight in policy._model.state_dict().items()}
    for role, context in (("teacher", policy.as_teacher), ("base", policy.as_base)):
        with context():
            states[role] = policy.hidden(BATCH)
    student = policy.hidden(BATCH)
    gradients = torch.autograd.grad(student.pow(2).sum(), policy.parameters())
    return states | {"student": student.detach()} | {f"gradient {i}": grad for i, grad in enumerate(gradients)}


@pytest.mark.parametrize("has_parent", [True, False])
def test_sampling_leaves_every_bit_of_the_policy_as_it_was(tmp_path: Path, has_parent: bool) -> None:
    policy = with_parent(tmp_path) if has_parent else policy_with(0.1)
    before = everything(policy)
    sampler = InProcessSampler(policy, StoppingCodec(), prompts([5]))
    sampler.sample(prompts([5, 2]), n=3, max_tokens=4, temperature=1.0, seed=0)
    with policy.as_teacher():
        sampler.measure_entropy(0)
    with pytest.raises(RuntimeError, match="stopped"), policy.merged():
        raise RuntimeError("stopped")
    after = everything(policy)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_roles_are_right_inside_the_merged_student(tmp_path: Path) -> None:
    policy = with_parent(tmp_path)
    before = everything(policy)
    with policy.merged():
        torch.testing.assert_close(policy.hidden(BATCH), before["student"], atol=1e-5, rtol=0)
        for role, context in (("teacher", policy.as_teacher), ("base", policy.as_base)):
            with context():
                assert torch.equal(policy.hidden(BATCH), before[role])
        torch.testing.assert_close(policy.hidden(BATCH), before["student"], atol=1e-5, rtol=0)


def test_a_narrow_base_is_not_merged_because_that_would_round_the_update_away() -> None:
    policy = Policy.on_model(tiny_model().to(torch.bfloat16), None, LORA)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        base = policy.hidden(BATCH)
        for weight in policy.parameters():
            weight.fill_(2e-3)
        student = policy.hidden(BATCH)
    with policy.merged():
        assert torch.equal(policy.hidden(BATCH), student) and not torch.equal(student, base)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
def test_only_the_most_probable_tokens_that_hold_the_share_are_sampled(top_p: float) -> None:
    policy = policy_with(0.0)
    sampler = InProcessSampler(policy, NumberCodec(), [])
    (prompt,) = number_prompts(1)
    whole, share = (
        sampler.sample([prompt], n=4000, max_tokens=1, temperature=1.0, seed=0, top_p=p)[0] for p in (1.0, top_p)
    )
    probability = {rollout.token_ids[0]: math.exp(rollout.logprobs[0]) for rollout in whole}
    nucleus, held = [], 0.0
    for token in sorted(probability, key=lambda token: -probability[token]):
        if held >= top_p:
            break
        nucleus.append(token)
        held += probability[token]
    drawn = Counter(rollout.token_ids[0] for rollout in share)
    assert set(drawn) == set(nucleus)
    for token in nucleus:  # in their old proportions
        expected = probability[token] / held
        assert drawn[token] / 4000 == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 4000) ** 0.5 + 1e-9)
    # The log-probabilities stay those of the whole distribution.
    for rollout in share[:100]:
        assert rollout.logprobs[0] == pytest.approx(math.log(probability[rollout.token_ids[0]]), abs=1e-5)
