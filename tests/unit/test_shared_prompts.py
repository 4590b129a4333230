"""Prompts that are shared in the training pass, against the plain pass. More gradients: test_training_gradients.py."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from reheatd.jobs.contracts import RLSpec
from tests.unit.test_comparison import LORA
from tests.unit.workers_support import VOCABULARY, job_fields, tiny_llama, tiny_mistral, tiny_model
from workers import shared_prompts
from workers.policy import Policy, TokenBatch
from workers.rl_learner import Learner
from workers.sampling.groups import ScoredRollout
from workers.sampling.rollout import Rollout
from workers.shared_prompts import Sequences, by_prompt


def groups(count: int = 3, size: int = 6, completion: int = 4, seed: int = 0) -> Sequences:
    """Sequences with prompts of 5 to 12 tokens and completions of 1 to `completion` tokens, in random order."""
    rng = random.Random(seed)

    def tokens(length: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(length)]

    prompts = [tokens(rng.randint(5, 12)) for _ in range(count)]
    found = [(list(prompt), tokens(rng.randint(1, completion))) for prompt in prompts for _ in range(size)]
    rng.shuffle(found)
    return found


def policy_on(model: Any) -> Policy:
    policy = Policy.on_model(model, None, LORA)
    generator = torch.Generator().manual_seed(1)
    for weight in policy.parameters():
        weight.data.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return policy


def never_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prompts, "LEAST_SAVING", float("inf"))


def state_and_gradients(policy: Policy, sequences: Sequences, *, shared: bool) -> list[torch.Tensor]:
    batch = TokenBatch.build(sequences, policy.device)
    assert batch.pack.shares_prompts == shared
    hidden_TD = policy.hidden(batch).float()
    direction_TD = torch.randn(hidden_TD.shape, generator=torch.Generator().manual_seed(2))
    return [hidden_TD.detach(), *torch.autograd.grad((hidden_TD * direction_TD).sum(), policy.parameters())]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("model", [tiny_model, tiny_llama, tiny_mistral])
def test_states_and_gradients_are_those_of_the_plain_pass(
    monkeypatch: pytest.MonkeyPatch, model: Any, dtype: torch.dtype, tolerance: float
) -> None:
    """Even a float64 model of transformers computes norms and rotations in float32."""
    policy = policy_on(model().to(dtype))
    found = state_and_gradients(policy, groups(), shared=True)
    never_share(monkeypatch)
    plain = state_and_gradients(policy, groups(), shared=False)
    for one, other in zip(found, plain, strict=True):
        assert float((one - other).norm() / other.norm()) < tolerance


def test_completions_of_one_token_need_only_the_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_on(tiny_model())
    found = state_and_gradients(policy, groups(completion=1), shared=True)
    never_share(monkeypatch)
    for one, other in zip(found, state_and_gradients(policy, groups(completion=1), shared=False), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def learned(tmp_path: Path, sequences: Sequences) -> tuple[dict[str, float], list[int]]:
    """The metrics of an update on these sequences with random rewards, and the sizes of its micro-batches."""
    rng = random.Random(0)
    policy = policy_on(tiny_model())
    spec = RLSpec(**job_fields(tmp_path), learning_rate=1e-3, kl_coef=0.1, temperature=1.2, epochs=2, minibatches=2)
    scored = [
        ScoredRollout(
            Rollout(prompt, completion, "", [-2.0 - rng.random() for _ in completion], "test", False),
            0.0,
            rng.choice([-0.5, 0.5]),
        )
        for prompt, completion in sequences
    ]
    sizes = [len(part) for part in policy.micro_batches(sequences)]
    return Learner(policy, spec).learn(scored), sizes


def test_an_update_is_that_of_the_plain_pass_where_micro_batches_cut_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "micro_batch_tokens", 40)
    shared, sizes = learned(tmp_path, groups())
    assert len(sizes) > 2 and any(size % 6 for size in sizes)
    never_share(monkeypatch)
    plain, _ = learned(tmp_path, groups())
    assert shared == pytest.approx(plain, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("limit", [15, 40, 1000])
def test_micro_batches_by_prompt_cover_everything_within_the_limit(limit: int) -> None:
    sequences = groups()
    parts = by_prompt(sequences, limit)
    assert sorted(itertools.chain(*parts)) == list(range(len(sequences)))
    for part in parts:
        prompts = {tuple(sequences[i][0]) for i in part}
        longest = max(map(len, prompts))
        completion = max(len(sequences[i][1]) for i in part) - 1
        assert len(part) == 1 or len(prompts) * longest + len(part) * completion <= limit
    if limit == 1000:
        assert len(parts) == 1
    # Each prompt is computed in neighbouring micro-batches only.
    runs = itertools.groupby(tuple(sequences[i][0]) for part in parts for i in part)
    assert len(list(runs)) == 3


def test_prompts_are_not_shared_where_it_saves_too_little() -> None:
    policy = policy_on(tiny_model())
    alone = groups(size=1)
    long = [(prompt, completion * 30) for prompt, completion in groups()]
    for sequences in (alone, long):
        assert not TokenBatch.build(sequences, policy.device).pack.shares_prompts
        by_length = [len(prompt) + len(completion) for prompt, completion in sequences]
        order = [index for part in policy.micro_batches(sequences) for index in part]
        assert [by_length[i] for i in order] == sorted(by_length, reverse=True)


def test_long_prompts_are_not_repeated_without_end() -> None:
    """Keys and values of a prompt are in memory once for each of its sequences."""
    prompt = list(range(90))
    sequences = [(prompt, [1, 2]) for _ in range(200)]
    assert max(len(part) for part in by_prompt(sequences, 200)) * 91 <= shared_prompts.MAX_REPEATED * 200
