"""A sampler around another one, which looks at everything that is sampled."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from reheatd.json_lines import Prompts
from reheatd.measures import EntropyEstimate
from workers.policy import Policy
from workers.sampling.background import Background
from workers.sampling.rollout import Batch, Rollout, Sampler

Result = TypeVar("Result")


class ObservedSampling(ABC):
    """Samples what `sampler` samples, and shows it to `observe`."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.step = 0
        """Step of the student that is sampled from; a resumed job publishes its student before it samples."""

    @abstractmethod
    def observe(self, batch: Batch, groups: list[list[Rollout]]) -> None:
        """Takes a batch that was sampled at `step`, with the completions of every prompt."""

    @property
    def model(self) -> str:
        return self._sampler.model

    def publish(self, policy: Policy, step: int) -> None:
        self._sampler.publish(policy, step)
        self.step = step

    def sample(
        self, prompts: Prompts, *, n: int, max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> list[list[Rollout]]:
        batch = Batch(prompts, n, max_tokens, temperature, seed, top_p)
        groups = self._sampler.sample(**vars(batch))
        self.observe(batch, groups)
        return groups

    def in_background(self, work: Callable[[], Result]) -> Background[Result]:
        return self._sampler.in_background(work)

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        return self._sampler.measure_entropy(seed)
