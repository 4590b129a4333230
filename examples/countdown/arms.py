"""The ways to go on from a collapsed policy: a remedy or none, and RL."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.countdown.task import COMPLETION_TOKENS, problems
from reheatd.options import LoraOptions, Remedy
from reheatd.task_data import Problem

LORA = LoraOptions(rank=16, alpha=32)
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


@dataclass(frozen=True)
class RemedySizes:
    """What remedies may sample; each is counted in the arm's budget."""

    steps: int
    """Largest number of steps of TS-OPSD."""
    prompts: int
    """Rollouts of a step of TS-OPSD."""
    signal_problems: int
    """Problems among which `auto` looks for lost ones."""
    signal_samples: int
    """Answers to each."""
    rl_steps: int
    """Steps of the candidates of `auto` that are RL."""


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
