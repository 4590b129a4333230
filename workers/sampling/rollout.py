"""What training needs from the served policy, and what it gets: rollouts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from reheatd.jobs.contracts import JobBase
from reheatd.measures import EntropyEstimate
from workers.policy import Policy
from workers.progress import Progress
from workers.task_data import Messages


@dataclass(frozen=True)
class Rollout:
    """One completion sampled from the policy."""

    prompt_ids: list[int]
    token_ids: list[int]
    """Completion tokens, never empty; the end-of-sequence token included when it was sampled."""
    text: str
    logprobs: list[float]
    """The sampler's log p of each completion token at temperature 1, nats."""
    model: str
    """Name of the adapter version that produced it."""
    truncated: bool
    """Whether it ended for length."""


class Sampler(Protocol):
    """What training needs from the served policy."""

    @property
    def model(self) -> str:
        """Name of the version that is sampled from now."""
        ...

    def publish(self, policy: Policy, step: int) -> None:
        """Makes the student as it is now the version that is sampled from."""
        ...

    def sample(
        self, prompts: Sequence[Messages], *, n: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Rollout]]:
        """`n` completions of every prompt; a request that keeps failing leaves its prompt with fewer.

        Raises:
            EngineError: Every request failed.
        """
        ...

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        """Probe entropy of the version that is sampled from now."""
        ...


def parent_entropy(spec: JobBase, sampler: Sampler, progress: Progress) -> EntropyEstimate:
    """Probe entropy the job starts from: the daemon's own measurement where the specification has one."""
    if spec.parent_entropy is not None:
        return spec.parent_entropy
    progress.report("measuring", 0)
    return sampler.measure_entropy(spec.seed)
