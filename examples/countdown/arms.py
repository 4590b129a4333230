"""The ways to go on from a collapsed policy, and the remedies and the RL that they consist of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from examples.countdown.learning import Watch
from examples.countdown.measuring import PROBES, CountedSampler
from examples.countdown.policy import LORA
from examples.countdown.task import COMPLETION_TOKENS, problems, reward
from reheatd.jobs.contracts import ReheatSpec, RLSpec
from reheatd.measures import Contract, EntropyEstimate
from reheatd.options import RLOptions
from reheatd.task_data import Problem
from workers.candidates import make_candidates
from workers.grpo import Grpo
from workers.policy import Policy
from workers.rewards.scoring import InProcessScorer, Scorer
from workers.sampling.seeds import seed_for
from workers.shrink import Shrinker
from workers.ts_opsd import Reheater

REHEAT_PROMPTS_PER_STEP = 64
TRAINING_PROBLEMS = 4096

LIVE = {"teacher": "live", "tau": 1.2, "learning_rate": 1e-4, "refresh_every": 1}
"""The paper's teacher and tau; the learning rate is that of a LoRA."""
FROZEN = {"teacher": "frozen", "learning_rate": 1e-3, "refresh_every": 4}


@dataclass(frozen=True)
class Arm:
    """A way to go on: a remedy first, if there is one, and then RL until the budget is spent."""

    remedy: Literal["ts_opsd", "shrink", "auto"] | None = None
    ratio: float = 1.5
    """Entropy at which the remedy stops, over that of the policy before it."""
    reheat: dict[str, Any] = field(default_factory=dict)
    """Options of TS-OPSD."""
    rl: dict[str, Any] = field(default_factory=dict)
    """Options in which RL differs from that of the other arms."""
    fold: float = 1.0
    """Temperature that is folded into the final norm, which is the exact solution of TS-OPSD with a frozen teacher."""


CONTINUED = "continued"
"""The arm that only goes on, with which the others are compared."""
ARMS = {
    CONTINUED: Arm(),
    "hot_1.2": Arm(rl={"temperature": 1.2}),
    "hot_1.5": Arm(rl={"temperature": 1.5}),
    "live_1.5x": Arm("ts_opsd", reheat=LIVE),
    "live_3x": Arm("ts_opsd", ratio=3.0, reheat=LIVE),
    "frozen_1.5x": Arm("ts_opsd", reheat=FROZEN),
    "fold_1.25": Arm(fold=1.25),
    "entropy_bonus": Arm(rl={"entropy_bonus": 0.01}),
    "shrink": Arm("shrink"),
    "auto": Arm("auto", reheat=LIVE),
}
"""The arms by name. `hot` samples RL's rollouts at that temperature, `live` and `frozen` are TS-OPSD with that teacher,
`entropy_bonus` acts on every rollout of RL, `shrink` scales the LoRA towards the base, and `auto` tries several remedies
and takes the one that brings back most of the lost problems."""


class Treated(Contract):
    """One use of a remedy."""

    remedy: str
    """The remedy that acted; for `auto`, the one that was chosen."""
    samples: int
    """Completions that it sampled, the measurement of entropy before it included."""
    entropy_before: float
    """Entropy on the probes, in nats per token."""
    entropy_after: float


@dataclass(frozen=True)
class RLShape:
    """The RL of a half of the experiment, the same for all its arms."""

    prompts: int
    """Problems per step."""
    group: int
    """Rollouts per problem."""
    learning_rate: float

    @property
    def step(self) -> int:
        """Completions of one step."""
        return self.prompts * self.group

    def options(self, **others: Any) -> dict[str, Any]:
        return {
            "prompts_per_step": self.prompts,
            "group_size": self.group,
            "learning_rate": self.learning_rate,
            "max_tokens": COMPLETION_TOKENS,
            "max_resamples": 0,  # so that equal budgets give equal numbers of steps
            **others,
        }


class Silent:
    """A `Progress` for training whose steps are no steps of the experiment's own RL."""

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        pass


def treat(
    arm: Arm,
    policy: Policy,
    sampler: CountedSampler,
    pool: Sequence[Problem],
    lost: Sequence[Problem],
    shape: RLShape,
    *,
    steps: int,
    seed: int,
) -> list[Treated]:
    """Applies the arm's remedy to the policy; nothing if it has none.

    Args:
        pool: Problems at hand, on whose prompts TS-OPSD trains.
        lost: Problems that failed at every try, by which `auto` chooses.
        shape: The RL of the remedies that train with RL.
        steps: Largest number of optimiser steps of TS-OPSD.
    """
    if arm.remedy is None:
        return []
    start = sampler.samples
    before = sampler.measure_entropy(seed_for("probes", seed, 0))
    spec = ReheatSpec(
        **job_fields(seed),
        **arm.reheat,
        remedy=arm.remedy,
        target_entropy=arm.ratio * before.mean,
        parent_entropy=before,
        steps=steps,
        prompts_per_step=REHEAT_PROMPTS_PER_STEP,
        max_tokens=COMPLETION_TOKENS,
        rl=RLOptions(**shape.options()),
    )
    remedy, after = arm.remedy, before
    if arm.remedy == "auto":
        remedy, after = take_best(policy, spec, sampler, lost)
    elif arm.remedy == "shrink":
        after = Shrinker(policy, spec, sampler, Silent()).run().entropy_after
    else:
        prompts = [problem.messages for problem in pool]
        after = Reheater(policy, spec, sampler, prompts, Silent()).run().entropy_after
    return [
        Treated(
            remedy=remedy,
            samples=sampler.samples - start,
            entropy_before=before.mean,
            entropy_after=after.mean,
        )
    ]


def take_best(
    policy: Policy, spec: ReheatSpec, sampler: CountedSampler, lost: Sequence[Problem]
) -> tuple[str, EntropyEstimate]:
    """Makes the candidates of `auto`, and gives the policy the weights of the best one.

    Returns:
        The remedy that made it, and its entropy on the probes.
    """
    best = make_candidates(policy, spec, sampler, lost, InProcessScorer(reward), Silent())[0]
    policy.set_weights(best.weights)
    sampler.publish(policy, 0)
    return best.remedy, sampler.measure_entropy(seed_for("probes", spec.seed, 1))


def reinforce(
    policy: Policy,
    sampler: CountedSampler,
    pool: Sequence[Problem],
    scorer: Scorer,
    watch: Watch,
    shape: RLShape,
    *,
    samples: int,
    seed: int,
    **options: Any,
) -> None:
    """Runs RL with at most `samples` completions, including its two entropy measurements; none if that is no step."""
    steps = (samples - 2 * PROBES) // shape.step
    if steps < 1:
        return
    spec = RLSpec(
        **job_fields(seed),
        **shape.options(**options),
        steps=steps,
        patience=steps + 1,  # no arm ends before its budget
    )
    Grpo(policy, spec, sampler, pool, scorer, watch).run()


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
