"""Continued RL on a tiny policy with an in-process sampler."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from reheatd.jobs.contracts import RLSpec
from reheatd.json_lines import Messages
from reheatd.options import LoraOptions, RLOptions
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


@pytest.mark.parametrize("fields", [{"epochs": 3}, {"minibatches": 4}])
def test_only_a_second_optimiser_step_on_a_batch_can_be_clipped(tmp_path: Path, fields: dict[str, Any]) -> None:
    _, once, *_ = train(tmp_path, share_of_even_tokens, steps=3, learning_rate=0.03)
    _, again, *_ = train(tmp_path, share_of_even_tokens, steps=3, learning_rate=0.03, **fields)
    assert all(step["clip_fraction"] == 0 for step in once)
    assert any(step["clip_fraction"] > 0 for step in again)


def test_every_mini_batch_is_compared_with_the_policy_before_the_first_update(tmp_path: Path) -> None:
    """The sampler is the trainer's own model, so only a policy that was updated since differs from it."""
    _, metrics, *_ = train(tmp_path, share_of_even_tokens, steps=3, minibatches=4, learning_rate=0.03, epochs=2)
    assert all(step["logprob_gap"] < 1e-4 for step in metrics)


def test_mini_batches_are_optimiser_steps_of_their_own(tmp_path: Path) -> None:
    outcome, *_ = train(tmp_path, share_of_even_tokens, steps=2, minibatches=4, epochs=3)
    assert outcome.updates == 2 * 4 * 3


@pytest.mark.parametrize(
    ("reward", "counted", "says"),
    [
        (0.0, "groups_all_fail", "100% failed, 0% passed"),
        (1.0, "groups_all_pass", "0% failed, 100% passed"),
        (0.5, None, "0% failed, 0% passed, 100% had equal rewards in between"),
    ],
)
def test_a_run_without_signal_ends_early_and_says_why(
    tmp_path: Path, reward: float, counted: str | None, says: str
) -> None:
    outcome, metrics, *_ = train(tmp_path, lambda _: reward, steps=9, patience=3, max_resamples=1)
    assert (outcome.steps, outcome.updates, outcome.stopped) == (3, 0, "no_signal")
    assert outcome.why_stopped == f"none of the 48 groups of the last 3 steps varied: {says}"
    assert metrics[-1]["groups"] == 16 and metrics[-1]["reward"] == reward
    found = {name: metrics[-1][name] for name in ("groups_all_fail", "groups_all_pass", "groups_varied")}
    assert found == {name: 16.0 if name == counted else 0.0 for name in found}
    assert "grad_norm" not in metrics[-1]


def test_patience_begins_anew_with_every_group_that_varies(tmp_path: Path) -> None:
    calls = 0

    def sometimes(completion: str) -> float:
        nonlocal calls
        calls += 1
        # Of three steps, only the last has a group that varies.
        return float((calls - 1) // 64 % 3 == 2 and calls % 2)

    outcome, metrics, *_ = train(tmp_path, sometimes, steps=9, patience=3, max_resamples=0)
    assert [step["groups_varied"] for step in metrics] == [0, 0, 8] * 3
    assert (outcome.steps, outcome.updates, outcome.stopped, outcome.why_stopped) == (9, 3, "steps", None)


def test_groups_without_variance_are_resampled_then_a_noop_is_reported(tmp_path: Path) -> None:
    _, metrics, verifier, sampler = train(tmp_path, lambda _: 1.0, steps=2)
    assert verifier.calls == 2 * 3 * 8 * 8  # two steps, each sampled once and resampled twice
    assert sampler.published == []
    assert metrics[-1]["zero_variance_groups"] == 1.0 and metrics[-1]["noop_steps"] == 2.0
    assert "loss" not in metrics[-1]


def test_groups_without_variance_are_replaced_by_further_problems(tmp_path: Path) -> None:
    _, metrics, verifier, _ = train(tmp_path, share_of_even_tokens, ["easy", ""], steps=1, max_resamples=9)
    groups = metrics[0]["groups"]
    assert metrics[0]["groups_varied"] == 8 and groups > 12  # half of what is drawn is useful
    assert metrics[0]["groups_all_pass"] == groups - 8 and metrics[0]["groups_all_fail"] == 0
    assert metrics[0]["samples"] == verifier.calls == groups * 8
    assert metrics[0]["zero_variance_groups"] == 1 - 8 / groups
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


def test_an_entropy_bonus_acts_where_no_group_varies(tmp_path: Path) -> None:
    outcome, metrics, _, sampler = train(tmp_path, lambda _: 0.0, steps=6, patience=3, entropy_bonus=0.5)
    assert (outcome.stopped, outcome.updates, metrics[-1]["noop_steps"]) == ("steps", 6, 6)
    assert metrics[-1]["entropy"] > metrics[0]["entropy"] + 0.05
    assert {step["entropy_bonus"] for step in metrics} == {0.5} and sampler.published == list(range(1, 7))


def test_a_bonus_fades_out_at_its_target(tmp_path: Path) -> None:
    def weights(target: float) -> list[float]:
        _, metrics, *_ = train(tmp_path, lambda _: 0.0, steps=2, entropy_bonus=0.5, bonus_target=target)
        return [step["entropy_bonus"] for step in metrics]

    _, (plain, *_), *_ = train(tmp_path, lambda _: 0.0, steps=1, entropy_bonus=0.5)
    reached, missing = weights(0.5 * plain["entropy"]), weights(2 * plain["entropy"])
    assert reached == [0.0, 0.0]
    assert missing[0] == pytest.approx(0.25, abs=0.03) and missing[1] < missing[0]


def test_a_bonus_does_not_dilute_what_rewards_teach(tmp_path: Path) -> None:
    """Beside groups that fail as a whole, the gradient of those that vary stays the same."""
    answers = ["easy", ""]
    fields: dict[str, Any] = {"steps": 1, "max_resamples": 0, "warmup_steps": 0}
    _, (alone,), *_ = train(tmp_path, share_of_even_tokens, answers, **fields)
    _, (beside,), *_ = train(tmp_path, share_of_even_tokens, answers, entropy_bonus=1e-9, **fields)
    assert 0 < beside["groups_varied"] == alone["groups_varied"] < 8
    assert beside["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"bonus_target": 0.3}, "does nothing without a bonus; set entropy_bonus"),
        ({"bonus_target": 0.3, "entropy_bonus": 0.01, "temperature": 1.2}, "set temperature to 1 or leave"),
    ],
)
def test_a_bonus_that_cannot_act_is_refused(fields: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RLOptions.model_validate(fields)
