"""What is measured of a policy, and how: completions counted, accuracy and entropy on held-out problems."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from examples.countdown.records import Measured
from examples.countdown.task import COMPLETION_TOKENS, WordCodec, reward
from reheatd.json_lines import Prompts
from reheatd.measures import Accuracy, EntropyEstimate
from reheatd.options import TaskOptions
from reheatd.task_data import Problem
from workers.evaluation import evaluation_batch, measure_accuracy
from workers.policy import Policy
from workers.rewards.scoring import InProcessScorer
from workers.sampling.background import Background
from workers.sampling.in_process import InProcessSampler
from workers.sampling.rollout import Rollout

Result = TypeVar("Result")

GREEDY = TaskOptions(eval_samples=1, eval_temperature=0)
SAMPLED = TaskOptions(eval_samples=16, eval_top_p=1)
NUCLEUS = TaskOptions()
"""How accuracy is measured: greedily, by pass@1 and pass@16 of the whole distribution, and as the daemon does by
default."""


class CountedSampler:
    """A `Sampler` that counts the completions that are sampled through it, those of entropy measurements included.

    Args:
        probes: Problems whose prompts are the probes.
    """

    def __init__(self, policy: Policy, probes: Sequence[Problem]) -> None:
        self.samples = 0
        self._inner = in_process(policy, probes)
        self.probes = len(probes)

    @property
    def model(self) -> str:
        return self._inner.model

    def publish(self, policy: Policy, step: int) -> None:
        self._inner.publish(policy, step)

    def sample(
        self, prompts: Prompts, *, n: int, max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> list[list[Rollout]]:
        self.samples += len(prompts) * n
        return self._inner.sample(prompts, n=n, max_tokens=max_tokens, temperature=temperature, seed=seed, top_p=top_p)

    def in_background(self, work: Callable[[], Result]) -> Background[Result]:
        return self._inner.in_background(work)

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        self.samples += self.probes
        return self._inner.measure_entropy(seed)


def in_process(policy: Policy, probes: Sequence[Problem]) -> InProcessSampler:
    asked = [problem.messages for problem in probes]
    return InProcessSampler(policy, WordCodec(), asked, probe_tokens=COMPLETION_TOKENS)


class HeldOut:
    """Held-out problems on which policies are measured. Completions that are sampled for it count for nobody's budget.

    Args:
        problems: Problems of the family at hand.
        earlier: Problems of the family that the policy collapsed on; None if that is the family at hand.
    """

    def __init__(self, problems: Sequence[Problem], earlier: Sequence[Problem] | None = None) -> None:
        self._problems = problems
        self._earlier = earlier

    def measure(self, policy: Policy, samples: int) -> Measured:
        sampler = in_process(policy, self._problems)
        sampled = _accuracy(sampler, self._problems, SAMPLED)
        return Measured(
            samples=samples,
            pass1=sampled.value,
            pass16=sampled.pass_at[-1].value,
            greedy=_accuracy(sampler, self._problems, GREEDY).value,
            nucleus=_accuracy(sampler, self._problems, NUCLEUS).value,
            entropy=sampler.measure_entropy(0).mean,
            kept=sampled.value if self._earlier is None else _accuracy(sampler, self._earlier, SAMPLED).value,
        )


def _accuracy(sampler: InProcessSampler, problems: Sequence[Problem], task: TaskOptions) -> Accuracy:
    batch = evaluation_batch(problems, task, COMPLETION_TOKENS, seed=0)
    return measure_accuracy(sampler, problems, InProcessScorer(reward), batch)
