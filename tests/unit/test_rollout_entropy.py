"""The entropy of a job's own rollouts, as the worker reports it."""

from pathlib import Path
from typing import Any

import pytest

from reheatd.entropy.windows import LiveWindow
from reheatd.jobs.contracts import RLSpec
from reheatd.options import LoraOptions
from reheatd.task_data import Problem
from tests.unit.workers_support import NumberCodec, SilentProgress, job_fields, number_prompts, tiny_model
from workers.grpo import Grpo
from workers.policy import Policy
from workers.rewards.scoring import InProcessScorer
from workers.sampling.in_process import InProcessSampler
from workers.sampling.rollout import Rollout
from workers.sampling.rollout_entropy import MeasuredSampling, rollout_window

PROMPTS = number_prompts(24)
TOKENS = 12


def sampler() -> InProcessSampler:
    policy = Policy.on_model(tiny_model(), None, LoraOptions(rank=4))
    return InProcessSampler(policy, NumberCodec(), PROMPTS, probe_tokens=TOKENS)


def spec_of(tmp_path: Path, **fields: Any) -> RLSpec:
    return RLSpec(**job_fields(tmp_path) | {"parent_version": 3}, **fields)


def measured(tmp_path: Path, **sampling: Any) -> list[LiveWindow]:
    windows: list[LiveWindow] = []
    around = MeasuredSampling(sampler(), spec_of(tmp_path), windows.append)
    around.step = 5
    around.sample(PROMPTS, **{"n": 8, "max_tokens": TOKENS, "temperature": 1.0, "seed": 1, **sampling})
    return windows


def test_it_agrees_with_the_exact_entropy_of_the_policy(tmp_path: Path) -> None:
    (window,) = measured(tmp_path)
    assert window.estimate.low < sampler().measure_entropy(7).mean < window.estimate.high
    assert window.estimate.high - window.estimate.low < 0.5
    assert (window.estimate.sequences, window.estimate.tokens) == (24 * 8, 24 * 8 * TOKENS)
    assert [each.position for each in window.by_position] == [0, 1, 2, 4, 8]
    assert (window.version, window.source, window.parent, window.step) == ("test", "rollout", 3, 5)


@pytest.mark.parametrize("sampling", [{"temperature": 1.2}, {"top_p": 0.7}, {"temperature": 0.0, "n": 1}])
def test_rollouts_of_another_distribution_are_no_window(tmp_path: Path, sampling: dict[str, Any]) -> None:
    assert measured(tmp_path, **sampling) == []


def rollouts(*logprobs: float) -> list[Rollout]:
    return [Rollout([1], [2], "", [value], "m", truncated=False) for value in logprobs]


def test_completions_of_one_prompt_count_as_one_cluster(tmp_path: Path) -> None:
    alike = rollout_window(spec_of(tmp_path), 0, [rollouts(-1.0, -1.0), rollouts(-3.0, -3.0)])
    mixed = rollout_window(spec_of(tmp_path), 0, [rollouts(-1.0, -3.0), rollouts(-3.0, -1.0)])
    assert alike.estimate.mean == mixed.estimate.mean == 2.0
    assert alike.estimate.high > 3 and mixed.estimate.high == 2.0


def learn(tmp_path: Path, reward: float | None, **fields: Any) -> tuple[list[LiveWindow], list[dict[str, float]]]:
    windows: list[LiveWindow] = []
    progress = SilentProgress()
    spec = spec_of(tmp_path, steps=2, prompts_per_step=6, group_size=4, max_tokens=8, max_resamples=0, **fields)
    own = sampler()

    def score(completion: str, answer: str) -> float:
        return len(completion) % 2 if reward is None else reward

    problems = [Problem(messages, "") for messages in PROMPTS]
    around = MeasuredSampling(own, spec, windows.append)
    Grpo(own._policy, spec, around, problems, InProcessScorer(score), progress).run()
    return windows, [metrics for phase, _, metrics in progress.reports if phase == "training"]


def test_every_step_is_measured_even_if_no_group_teaches_anything(tmp_path: Path) -> None:
    windows, metrics = learn(tmp_path, reward=0.0)
    assert [window.estimate.sequences for window in windows] == [24, 24]
    assert all("entropy" not in step for step in metrics)
    windows, metrics = learn(tmp_path, reward=None)
    assert [window.step for window in windows] == [0, 1]
    assert windows[0].estimate.low < metrics[0]["entropy"] < windows[0].estimate.high


def test_entropy_is_that_at_temperature_1_and_what_was_sampled_is_named_apart(tmp_path: Path) -> None:
    _, plain = learn(tmp_path, reward=None)
    windows, hot = learn(tmp_path, reward=None, temperature=1.5)
    assert windows == []
    assert "entropy_sampled" not in plain[0]
    assert hot[0]["entropy"] == pytest.approx(plain[0]["entropy"], rel=0.15)
    assert hot[0]["entropy_sampled"] > 1.2 * hot[0]["entropy"]
