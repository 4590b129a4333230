"""Rollouts, and the interface through which training samples them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from reheatd.jobs.contracts import JobBase
from reheatd.json_lines import Messages, Prompts
from reheatd.measures import EntropyEstimate
from workers.policy import Policy
from workers.progress import Progress
from workers.sampling.background import Background
from workers.sampling.seeds import seed_for

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rollout:
    """One completion sampled from the policy."""

    prompt_ids: list[int]
    token_ids: list[int]
    """Completion tokens, at least one; they include the end-of-sequence token if it was sampled."""
    text: str
    logprobs: list[float]
    """The sampler's log-probability of each completion token at temperature 1, in nats."""
    model: str
    """Name of the adapter version that was sampled from."""
    truncated: bool
    """Whether the completion was cut off at its longest length."""
    entropies: list[float] | None = None
    """Exact entropy of the state of each completion token at temperature 1, in nats; None if the sampler has not
    measured it."""


@dataclass(frozen=True)
class Batch:
    """A batch to sample: `n` completions of every prompt."""

    prompts: Sequence[Messages]
    n: int
    max_tokens: int
    temperature: float
    seed: int
    """Seed of the whole batch; see `workers.sampling.seeds`."""
    top_p: float = 1.0
    """Share of the probability that is sampled from. Entropy is measured only at a temperature and a top_p of 1."""


class Sampler(Protocol):
    """Samples from the policy that is being trained."""

    @property
    def model(self) -> str:
        """Name of the version that is sampled from now."""
        ...

    def publish(self, policy: Policy, step: int) -> None:
        """Makes the present student the version that is sampled from."""
        ...

    def sample(
        self, prompts: Prompts, *, n: int, max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> list[list[Rollout]]:
        """Samples `n` completions of every prompt; a prompt whose request keeps failing gets fewer.

        Args:
            top_p: Share of the probability that is sampled from: the most probable tokens that hold it.

        Raises:
            EngineError: Every request failed.
        """
        ...

    def in_background(self, work: Callable[[], Result]) -> Background[Result]:
        """Begins work that calls `sample`, which then samples from what is published now.

        Until the work is over, training may change the policy, but nothing else may be asked of this sampler. A sampler
        that needs the policy's present weights does the work before it returns.
        """
        ...

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        """Measures the entropy on the probes of the version that is sampled from now."""
        ...


def parent_entropy(spec: JobBase, sampler: Sampler, progress: Progress) -> EntropyEstimate:
    """The probe entropy that the job starts from, measured here unless the specification brings it."""
    if spec.parent_entropy is not None:
        return spec.parent_entropy
    progress.report("measuring", 0)
    return sampler.measure_entropy(seed_for("probes", spec.seed, 0))
