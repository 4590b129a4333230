"""Continued RL on a tiny policy with an in-process sampler."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reheatd.jobs.contracts import LoraConfig, RLSpec
from tests.unit.workers_support import InProcessSampler, SilentProgress, job_fields, number_prompts, tiny_model
from workers.grpo import Grpo, RLOutcome, group_advantages, policy_gradient_loss
from workers.policy import Policy
from workers.rewards.verifier import Verifier
from workers.task_data import Problem

LORA = LoraConfig(rank=8, alpha=16)


class CountingVerifier(Verifier):
    """Scores in this process."""

    def __init__(self, reward: Callable[[str], float]) -> None:
        super().__init__("exact")
        self.calls = 0
        self._function = reward

    def score(self, completion: str, answer: str) -> float:
        self.calls += 1
        return self._function(completion)


def share_of_even_tokens(completion: str) -> float:
    tokens = [int(part) for part in completion.split()]
    return sum(token % 2 == 0 for token in tokens) / len(tokens)


def train(
    tmp_path: Path, reward: Callable[[str], float], **fields: Any
) -> tuple[RLOutcome, list[dict[str, float]], CountingVerifier, InProcessSampler]:
    policy = Policy.on_model(tiny_model(), None, LORA)
    sampler = InProcessSampler(policy, number_prompts(16))
    problems = [Problem(messages, "") for messages in number_prompts(32)]
    defaults: dict[str, Any] = {
        "steps": 10,
        "prompts_per_step": 8,
        "group_size": 8,
        "max_tokens": 8,
        "learning_rate": 0.01,
    }
    spec = RLSpec(**job_fields(tmp_path), **(defaults | fields))
    verifier, progress = CountingVerifier(reward), SilentProgress()
    outcome = Grpo(policy, spec, sampler, problems, verifier, progress).run()
    return outcome, [metrics for phase, _, metrics in progress.reports if phase == "training"], verifier, sampler


@pytest.mark.parametrize("fields", [{}, {"epochs": 2}, {"normalise_std": True}, {"temperature": 1.3}])
def test_reward_rises(tmp_path: Path, fields: dict[str, Any]) -> None:
    outcome, metrics, _, sampler = train(tmp_path, share_of_even_tokens, **fields)
    assert outcome.steps == 10 and outcome.noop_steps == 0
    assert metrics[-1]["reward"] > metrics[0]["reward"] + 0.1
    assert sampler.published == list(range(1, 11))
    assert all(step["logprob_gap"] < 1e-4 for step in metrics)  # the sampler is the trainer's own model here
    assert all(step["completion_tokens"] == 8 and step["truncated"] == 1 for step in metrics)


def test_only_a_second_epoch_can_be_clipped(tmp_path: Path) -> None:
    _, once, *_ = train(tmp_path, share_of_even_tokens, steps=3)
    _, twice, *_ = train(tmp_path, share_of_even_tokens, steps=3, epochs=3, learning_rate=0.03)
    assert all(step["clip_fraction"] == 0 for step in once)
    assert any(step["clip_fraction"] > 0 for step in twice)


def test_groups_without_variance_are_resampled_then_a_noop_is_reported(tmp_path: Path) -> None:
    outcome, metrics, verifier, sampler = train(tmp_path, lambda _: 1.0, steps=2)
    assert outcome.noop_steps == 2
    assert verifier.calls == 2 * 3 * 8 * 8  # two steps, each sampled once and resampled twice
    assert sampler.published == []
    assert metrics[-1]["zero_variance_groups"] == 1.0 and metrics[-1]["noop_steps"] == 2.0
    assert "loss" not in metrics[-1]


def test_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    first, first_metrics, *_ = train(tmp_path, share_of_even_tokens, steps=3)
    second, second_metrics, *_ = train(tmp_path, share_of_even_tokens, steps=3)
    assert first == second and first_metrics == second_metrics


def test_group_advantages() -> None:
    assert group_advantages([1.0, 0.0, 0.0, 1.0], normalise_std=False) == [0.5, -0.5, -0.5, 0.5]
    assert group_advantages([1.0, 0.0, 0.0, 1.0], normalise_std=True) == [1.0, -1.0, -1.0, 1.0]
    assert group_advantages([1.0, 1.0, 1.0], normalise_std=True) is None


def test_policy_gradient_loss_clips_asymmetrically_and_weights_by_importance() -> None:
    old = torch.zeros(4)
    logprobs = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    importance = torch.tensor([1.0, 1.0, 0.5, 1.0])
    loss, clipped = policy_gradient_loss(logprobs, old, advantages, importance, clip_low=0.2, clip_high=0.28)
    loss.backward()
    up, down = torch.tensor(0.5).exp(), torch.tensor(-0.5).exp()
    assert clipped.tolist() == [True, False, False, True]
    torch.testing.assert_close(loss.detach(), -(1.28 + down - 0.5 * up - 0.8))
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.stack([0 * up, -down, 0.5 * up, 0 * up]))


def test_first_step_is_the_plain_policy_gradient() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantages = torch.tensor([1.0, -0.5])
    loss, _ = policy_gradient_loss(logprobs, logprobs.detach(), advantages, torch.ones(2), clip_low=0.2, clip_high=0.28)
    loss.backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -advantages)
