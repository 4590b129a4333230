"""The ways to go on from a collapsed policy, and the remedies and the RL that they consist of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from examples.countdown.learning import Watch
from examples.countdown.measuring import PROBES, CountedSampler
from examples.countdown.policy import LORA
from examples.countdown.task import COMPLETION_TOKENS, problems, reward
from reheatd.jobs.contracts import ReheatSpec, RLSpec
from reheatd.measures import Contract
from reheatd.options import Remedy, RLOptions
from reheatd.task_data import Problem
from workers.candidates import Candidate, make_candidates
from workers.grpo import Grpo
from workers.policy import Policy, Weights
from workers.remedies import make_trainer
from workers.rewards.scoring import InProcessScorer
from workers.sampling.seeds import seed_for
from workers.signal_meter import SignalMeter

REHEAT_PROMPTS_PER_STEP = 64
TRAINING_PROBLEMS = 4096

LIVE = {"teacher": "live", "tau": 1.2, "learning_rate": 1e-4, "refresh_every": 1}
"""The paper's teacher and tau; the learning rate is that of a LoRA."""
FROZEN = {"teacher": "frozen", "learning_rate": 1e-3, "refresh_every": 4}


@dataclass(frozen=True)
class Arm:
    """A way to go on: a remedy first, if there is one, and then RL until the budget is spent."""

    remedy: Remedy | None = None
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
ACTING = "live_1.5x"
"""The arm that a rule is judged by: the paper's remedy."""
ARMS = {
    CONTINUED: Arm(),
    "hot_1.2": Arm(rl={"temperature": 1.2}),
    "hot_1.5": Arm(rl={"temperature": 1.5}),
    ACTING: Arm("ts_opsd", reheat=LIVE),
    "live_3x": Arm("ts_opsd", ratio=3.0, reheat=LIVE),
    "frozen_1.5x": Arm("ts_opsd", reheat=FROZEN),
    "fold_1.25": Arm(fold=1.25),
    "entropy_bonus": Arm(rl={"entropy_bonus": 0.01}),
    "shrink": Arm("shrink"),
    "auto": Arm("auto", reheat=LIVE),
}
"""The arms by name. `hot` samples RL's rollouts at that temperature, `live` and `frozen` are TS-OPSD with that teacher,
`entropy_bonus` acts on every rollout of RL, `shrink` scales the LoRA towards the base, and `auto` tries several
remedies and takes the one that brings back most of the lost problems."""


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
    shape: RLShape,
    *,
    steps: int,
    seed: int,
) -> list[Treated]:
    """Applies the arm's remedy to the policy; nothing if it has none.

    Args:
        pool: Problems at hand.
        shape: The RL of the remedies that are RL.
        steps: Largest number of steps of the remedy.
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
    made = take_best(policy, spec, sampler, pool) if arm.remedy == "auto" else make(policy, spec, sampler, pool)
    return [
        Treated(
            remedy=made.remedy,
            samples=sampler.samples - start,
            entropy_before=before.mean,
            entropy_after=made.entropy,
        )
    ]


class Made(NamedTuple):
    """What a remedy made of a policy."""

    remedy: Remedy
    entropy: float
    """On the probes, in nats per token."""
    weights: Weights


def make(policy: Policy, spec: ReheatSpec, sampler: CountedSampler, pool: Sequence[Problem]) -> Made:
    """Applies a single remedy to the policy."""
    outcome = make_trainer(policy, spec, sampler, pool, InProcessScorer(reward), Silent()).run()
    return Made(spec.remedy, outcome.entropy_after.mean, policy.weights())


def take_best(policy: Policy, spec: ReheatSpec, sampler: CountedSampler, pool: Sequence[Problem]) -> Made:
    """Makes the candidates of `auto` as a job of the daemon does, and gives the policy the best one's weights."""
    parent = policy.weights()
    meter = SignalMeter(spec, sampler, pool, InProcessScorer(reward), Silent())

    def candidate(remedy: Remedy) -> Candidate[Made]:
        policy.set_weights(parent)
        sampler.publish(policy, 0)
        made = make(policy, spec.model_copy(update={"remedy": remedy}), sampler, pool)
        return Candidate(remedy, made, meter.measure())

    best = make_candidates(meter.before, candidate)[0].made
    policy.set_weights(best.weights)
    sampler.publish(policy, 0)
    return best


def reinforce(
    policy: Policy,
    sampler: CountedSampler,
    pool: Sequence[Problem],
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
    Grpo(policy, spec, sampler, pool, InProcessScorer(reward), watch).run()


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
