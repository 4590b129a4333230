"""A worker's job from the parent to its result, with an in-process sampler: one remedy, and the candidates of `auto`."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reheatd.jobs.contracts import JobResult, ReheatSpec
from reheatd.jobs.curves import read_curves
from reheatd.jobs.report import read_report
from reheatd.options import LoraOptions, ProbeOptions, TaskOptions
from reheatd.task_data import Problem
from tests.unit.recording_channel import RecordingChannel
from tests.unit.workers_support import RecordingSampler, job_fields, number_prompts, tiny_model
from workers import training_job
from workers.before_after import Evaluation
from workers.policy import Policy
from workers.progress import ChannelProgress
from workers.rewards.scoring import InProcessScorer
from workers.sampling.rollout import Batch, Rollout
from workers.training_job import TrainingJob

PROMPTS = number_prompts(24)
PROBLEMS = [Problem(messages, str(number)) for number, messages in enumerate(PROMPTS)]


class LocalSampler(RecordingSampler):
    """Samples from the trainer's policy, with what a served sampler has beside that."""

    probed: Sequence[Rollout] = ()

    def sample_all(self, batches: Sequence[Batch]) -> list[list[list[Rollout]]]:
        return [self.sample(**vars(batch)) for batch in batches]


def make_spec(folder: Path, **fields: Any) -> ReheatSpec:
    common: dict[str, Any] = {
        "max_tokens": 8,
        "target_entropy": 3.0,
        "learning_rate": 0.003,
        "signal_problems": 24,
        "signal_samples": 4,
        "report_rollouts": 4,
        "rl": {"max_tokens": 8, "steps": 1},
        "task": TaskOptions(eval_samples=2, eval_max_tokens=8),
        "probes": ProbeOptions(max_tokens=8),
    }
    return ReheatSpec(**job_fields(folder), **common | fields)


def make_job(spec: ReheatSpec, adapter: Path, reward: Callable[[str, str], float]) -> TrainingJob:
    policy = Policy.on_model(tiny_model(), None, LoraOptions(rank=4, alpha=8), adapter)
    sampler: Any = LocalSampler(policy, PROMPTS[:8])
    progress = ChannelProgress(RecordingChannel(), spec.steps)
    scorer: Any = InProcessScorer(reward)
    evaluation = Evaluation(spec, 8, sampler, PROBLEMS[:4], scorer, PROMPTS[:4], progress)
    return TrainingJob(policy, sampler, PROBLEMS[4:], scorer, progress, evaluation, time.monotonic())


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parent with an update that can be scaled down; its entropy is about 2.3 nats per token, and its base's 2.6."""
    folder = tmp_path_factory.mktemp("parent")
    policy = Policy.on_model(tiny_model(), None, LoraOptions(rank=4, alpha=8))
    torch.manual_seed(1)
    policy.set_weights([weight + 0.05 * torch.randn_like(weight) for weight in policy.weights()])
    policy.save(folder / "adapter", folder)
    return folder / "adapter"


def failing_until(enough: int) -> Callable[[str, str], float]:
    """A reward that is 0 for the first `enough` completions, and then for about half of them."""
    calls = 0

    def reward(completion: str, answer: str) -> float:
        nonlocal calls
        calls += 1
        return float(calls > enough and int(completion.split()[0]) % 2)

    return reward
