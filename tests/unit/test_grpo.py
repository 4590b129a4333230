"""Continued RL on a tiny policy with an in-process sampler."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from reheatd.jobs.contracts import RLSpec
from reheatd.json_lines import Messages
from reheatd.options import LoraOptions
from reheatd.task_data import Problem
from tests.unit.workers_support import RecordingSampler, SilentProgress, job_fields, number_prompts, tiny_model
from workers.grpo import Grpo, RLOutcome
from workers.policy import Policy
from workers.rewards.scoring import InProcessScorer
from workers.sampling.rollout import Rollout

LORA = LoraOptions(rank=8, alpha=16)


class CountingScorer(InProcessScorer):
    """Counts its calls; every completion of an easy problem is right."""

    def __init__(self, reward: Callable[[str], float]) -> None:
        super().__init__(self._score)
        self.calls = 0
        self._function = reward

    def _score(self, completion: str, answer: str) -> float:
        self.calls += 1
        return 1.0 if answer == "easy" else self._function(completion)


def share_of_even_tokens(completion: str) -> float:
    tokens = [int(part) for part in completion.split()]
    return sum(token % 2 == 0 for token in tokens) / len(tokens)


def train(
    tmp_path: Path,
    reward: Callable[[str], float],
    answers: Sequence[str] = ("",),
    sampler: type[RecordingSampler] = RecordingSampler,
    **fields: Any,
) -> tuple[RLOutcome, list[dict[str, float]], CountingScorer, RecordingSampler]:
    policy = Policy.on_model(tiny_model(), None, LORA)
    rollouts = sampler(policy, number_prompts(16))
    problems = [Problem(messages, answer) for messages, answer in zip(number_prompts(32), cycle(answers))]
    defaults: dict[str, Any] = {
        "steps": 10,
        "prompts_per_step": 8,
        "group_size": 8,
        "max_tokens": 8,
        "learning_rate": 0.01,
    }
    spec = RLSpec(**job_fields(tmp_path), **(defaults | fields))
    verifier, progress = CountingScorer(reward), SilentProgress()
    outcome = Grpo(policy, spec, rollouts, problems, verifier, progress).run()
    return outcome, [metrics for phase, _, metrics in progress.reports if phase == "training"], verifier, rollouts


@pytest.mark.parametrize("fields", [{}, {"epochs": 2}, {"normalise_std": True}, {"temperature": 1.3}])
def test_reward_rises(tmp_path: Path, fields: dict[str, Any]) -> None:
    outcome, metrics, _, sampler = train(tmp_path, share_of_even_tokens, **fields)
    assert outcome.steps == 10 and metrics[-1]["noop_steps"] == 0
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
    _, metrics, verifier, sampler = train(tmp_path, lambda _: 1.0, steps=2)
    assert verifier.calls == 2 * 3 * 8 * 8  # two steps, each sampled once and resampled twice
    assert sampler.published == []
    assert metrics[-1]["zero_variance_groups"] == 1.0 and metrics[-1]["noop_steps"] == 2.0
    assert "loss" not in metrics[-1]


def test_groups_without_variance_are_replaced_by_further_problems(tmp_path: Path) -> None:
    _, metrics, verifier, _ = train(tmp_path, share_of_even_tokens, ["easy", ""], steps=1, max_resamples=9)
    assert metrics[0]["samples"] == verifier.calls == (8 + 4 + 2 + 1 + 1) * 8  # half of what is drawn is useful
    assert metrics[0]["zero_variance_groups"] == 0.5
    _, metrics, verifier, _ = train(tmp_path, share_of_even_tokens, ["easy", ""], steps=1, max_resamples=0)
    assert metrics[0]["samples"] == verifier.calls == 8 * 8


def test_truncated_rollouts_can_be_left_out(tmp_path: Path) -> None:
    _, metrics, _, sampler = train(tmp_path, share_of_even_tokens, steps=1, mask_truncated=True)
    assert metrics[0]["truncated"] == 1.0  # this policy never ends by itself
    assert metrics[0]["noop_steps"] == 1 and sampler.published == []


def test_kl_keeps_the_student_near_its_parent(tmp_path: Path) -> None:
    _, free, *_ = train(tmp_path, share_of_even_tokens, epochs=2, kl_coef=1e-9)
    _, held, *_ = train(tmp_path, share_of_even_tokens, epochs=2, kl_coef=3.0)
    assert free[0]["kl"] >= 0 and free[-1]["kl"] > 0.02
    assert held[-1]["kl"] < 0.25 * free[-1]["kl"]
    assert held[-1]["reward"] < free[-1]["reward"]


def test_normalisation_by_a_constant_is_by_the_tokens_that_there_could_have_been(tmp_path: Path) -> None:
    class HalfLength(RecordingSampler):
        def sample(self, prompts: Sequence[Messages], *, max_tokens: int, **options: Any) -> list[list[Rollout]]:
            return super().sample(prompts, max_tokens=max_tokens // 2, **options)

    _, by_tokens, *_ = train(tmp_path, share_of_even_tokens, sampler=HalfLength, steps=1)
    _, by_constant, *_ = train(tmp_path, share_of_even_tokens, sampler=HalfLength, steps=1, normalisation="constant")
    assert by_constant[0]["grad_norm"] == pytest.approx(0.5 * by_tokens[0]["grad_norm"])


def test_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    first, first_metrics, *_ = train(tmp_path, share_of_even_tokens, steps=3)
    second, second_metrics, *_ = train(tmp_path, share_of_even_tokens, steps=3)
    assert first == second and first_metrics == second_metrics
