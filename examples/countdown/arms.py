"""The four ways to continue from a collapsed policy, and the runs that compare them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.countdown.policy import LORA, load_policy
from examples.countdown.task import COMPLETION_TOKENS, Split, WordCodec, problems, reward
from reheatd.jobs.contracts import ReheatSpec, RLSpec
from reheatd.json_lines import Prompts
from reheatd.measures import EntropyEstimate
from reheatd.options import TaskOptions
from reheatd.task_data import Problem
from workers.evaluation import evaluation_batch, measure_accuracy
from workers.grpo import Grpo
from workers.policy import Policy
from workers.rewards.scoring import InProcessScorer
from workers.sampling.in_process import InProcessSampler
from workers.sampling.rollout import Rollout
from workers.ts_opsd import Reheater

ARMS = ("continued", "hot", "reheat", "fold")
"""The arms: continued RL; RL with rollouts at temperature tau; TS-OPSD, then RL; tau folded into the final norm, then
RL."""

PROMPTS_PER_STEP = 8
GROUP_SIZE = 16
STEP = PROMPTS_PER_STEP * GROUP_SIZE
"""Number of completions in one step of RL."""
REHEAT_PROMPTS_PER_STEP = 64
GREEDY = TaskOptions(eval_samples=1, eval_temperature=0)
SAMPLED = TaskOptions(eval_samples=16, eval_top_p=1)
"""How accuracy is measured: greedily, and by pass@1 and pass@16 of the whole distribution."""
PROBES = 64
TRAINING_PROBLEMS = 4096


@dataclass(frozen=True)
class Choice:
    """The settings that are tuned."""

    learning_rate: float
    """Learning rate of the RL; TS-OPSD keeps its own."""
    tau: float = 1.0


@dataclass(frozen=True)
class Sizes:
    """How long the runs are and how carefully they measure; in completions unless a field says otherwise."""

    collapse: int
    """Completions sampled from the pretrained policy until the arms begin."""
    budget: int
    """Completions sampled by every arm, including TS-OPSD's own rollouts and probes."""
    evaluate_every: int
    evaluation_problems: int
    reheat_steps: int


@dataclass(frozen=True)
class Measured:
    """Measurements of a policy on problems that it was not trained on."""

    samples: int
    """Completions sampled since the pretrained policy."""
    pass1: float
    pass16: float
    greedy: float
    entropy: float
    """Exact entropy over the states that the policy visits, in nats per token."""


class CountingSampler(InProcessSampler):
    """A sampler that counts the completions it samples."""

    samples = 0

    def sample(
        self, prompts: Prompts, *, n: int, max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> list[list[Rollout]]:
        self.samples += len(prompts) * n
        return super().sample(prompts, n=n, max_tokens=max_tokens, temperature=temperature, seed=seed, top_p=top_p)

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        self.samples += PROBES
        return super().measure_entropy(seed)


class Curve:
    """A `Progress` that measures the policy every `evaluate_every` completions."""

    def __init__(self, policy: Policy, sampler: CountingSampler, sizes: Sizes, split: Split, before: int) -> None:
        self.points: list[Measured] = []
        self._policy = policy
        self._sampler = sampler
        self._sizes = sizes
        self._problems = problems(sizes.evaluation_problems, split, seed=0)
        self._before = before

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        if phase == "training" and self._sampler.samples >= len(self.points) * self._sizes.evaluate_every:
            self.measure()

    def measure(self) -> None:
        asked = [problem.messages for problem in self._problems]
        # Measuring has its own sampler, because its completions are not part of the budget.
        sampler = InProcessSampler(self._policy, WordCodec(), asked, probe_tokens=COMPLETION_TOKENS)
        scorer = InProcessScorer(reward)
        greedy, sampled = (
            measure_accuracy(
                sampler, self._problems, scorer, evaluation_batch(self._problems, task, COMPLETION_TOKENS, seed=0)
            )
            for task in (GREEDY, SAMPLED)
        )
        self.points.append(
            Measured(
                samples=self._before + self._sampler.samples,
                pass1=sampled.value,
                pass16=sampled.pass_at[-1].value,
                greedy=greedy.value,
                entropy=sampler.measure_entropy(0).mean,
            )
        )


def collapse(choice: Choice, pretrained: Path, folder: Path, sizes: Sizes, split: Split, seed: int) -> list[Measured]:
    """Runs RL on the pretrained policy, and writes its adapter to `folder`."""
    policy = load_policy(pretrained, seed=seed)
    sampler = _sampler(policy)
    curve = Curve(policy, sampler, sizes, split, before=0)
    curve.measure()
    _reinforce(policy, sampler, curve, choice.learning_rate, 1.0, sizes.collapse, seed)
    curve.measure()
    policy.save(folder, pretrained)
    return curve.points


def run_arm(
    arm: str, choice: Choice, pretrained: Path, collapsed: Path, sizes: Sizes, split: Split, seed: int
) -> list[Measured]:
    """Runs one arm from the policy `collapsed`."""
    policy = load_policy(pretrained, collapsed, tau=choice.tau if arm == "fold" else 1.0)
    sampler = _sampler(policy)
    curve = Curve(policy, sampler, sizes, split, before=sizes.collapse)
    curve.measure()
    if arm == "reheat":
        prompts = [problem.messages for problem in training_problems(seed)]
        spec = ReheatSpec(
            **job_fields(seed),
            teacher="frozen",
            tau=choice.tau,
            steps=sizes.reheat_steps,
            refresh_every=4,
            prompts_per_step=REHEAT_PROMPTS_PER_STEP,
            max_tokens=COMPLETION_TOKENS,
        )
        Reheater(policy, spec, sampler, prompts, curve).run()
        curve.measure()
    temperature = choice.tau if arm == "hot" else 1.0
    _reinforce(policy, sampler, curve, choice.learning_rate, temperature, sizes.budget - sampler.samples, seed)
    curve.measure()
    return curve.points


def _reinforce(
    policy: Policy,
    sampler: CountingSampler,
    curve: Curve,
    learning_rate: float,
    temperature: float,
    samples: int,
    seed: int,
) -> None:
    """Runs RL with `samples` completions, including the two entropy measurements."""
    spec = RLSpec(
        **job_fields(seed),
        steps=(samples - 2 * PROBES) // STEP,
        prompts_per_step=PROMPTS_PER_STEP,
        group_size=GROUP_SIZE,
        max_tokens=COMPLETION_TOKENS,
        learning_rate=learning_rate,
        temperature=temperature,
        max_resamples=0,  # so that equal budgets give equal numbers of steps
        patience=max(1, samples // STEP),  # no arm ends before its budget
    )
    Grpo(policy, spec, sampler, training_problems(seed), InProcessScorer(reward), curve).run()


def _sampler(policy: Policy) -> CountingSampler:
    probes = [problem.messages for problem in problems(PROBES, "train", seed=-1)]
    return CountingSampler(policy, WordCodec(), probes, probe_tokens=COMPLETION_TOKENS)


def training_problems(seed: int) -> list[Problem]:
    return problems(TRAINING_PROBLEMS, "train", seed)


def job_fields(seed: int) -> dict[str, Any]:
    """The fields of a job that only a daemon needs, with the shape of the adapter and the seed."""
    nowhere = Path()
    return {
        "job_id": "countdown",
        "parent_version": 0,
        "parent_adapter": None,
        "model_path": nowhere,
        "gateway_url": "",
        "output_dir": nowhere,
        "lora": LORA,
        "seed": seed,
    }
