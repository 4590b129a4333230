"""Stand-ins for reheatd's side of a training benchmark: recorded rollouts and a stopwatch."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bench.rollout_file import policy_path
from reheatd.json_lines import Prompts
from reheatd.measures import EntropyEstimate
from reheatd.options import Checkpointing, LoraOptions
from workers.policy import Policy
from workers.sampling.background import Background
from workers.sampling.rollout import Rollout

Result = TypeVar("Result")


def bench_policy(model: Path | None = None, *, checkpointing: Checkpointing = "auto") -> Policy:
    """The policy that reheatd's side trains: SmolLM2-135M, or another, in bfloat16 with a new adapter."""
    return Policy.load(model or policy_path(), LoraOptions(), dtype="bfloat16", checkpointing=checkpointing)


def job_fields(model: Path | None = None) -> dict[str, Any]:
    """The fields of a job that only a daemon needs."""
    return {
        "job_id": "bench",
        "parent_version": 0,
        "parent_adapter": None,
        "model_path": model or policy_path(),
        "gateway_url": "",
        "output_dir": Path(tempfile.mkdtemp()),
    }


class RecordedSampler:
    """A `Sampler` that gives the same rollouts every time."""

    model = "recorded"

    def __init__(self, groups: list[list[Rollout]]) -> None:
        self._groups = groups

    def publish(self, policy: Policy, step: int) -> None:
        pass

    def sample(
        self, prompts: Prompts, *, n: int, max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> list[list[Rollout]]:
        if [len(group) for group in self._groups] != [n] * len(prompts):
            raise ValueError(f"asked for {len(prompts)} x {n} rollouts, recorded are {len(self._groups)} groups")
        return self._groups

    def in_background(self, work: Callable[[], Result]) -> Background[Result]:
        return Background.done(work())

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        return EntropyEstimate(mean=1.0, low=1.0, high=1.0, tokens=1, sequences=1)


class Stopwatch:
    """A `Progress` that takes the time of every step; no time goes into sampling."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.metrics: list[dict[str, float]] = []
        self._begun = time.perf_counter()

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        if phase == "training" and metrics:
            self.seconds.append(time.perf_counter() - self._begun)
            self.metrics.append(metrics)
        self._begun = time.perf_counter()
