"""The sizes of the experiment, all in one place.

What they cost in minutes of one core, on an EPYC of 2 cores: pretraining 8 x 4, collapses 8 x (1.7 + 0.9), decisions
8 x 0.4, cascades 8 x (1.3 + 1.0), arms of the half `signal` 8 x 6 x 0.9, arms of the half `stall` 8 x 9 x 0.3, and the
other arms 8 x 4 x 0.35; together about 150 with two processes side by side, which is 77 minutes.
"""

from dataclasses import asdict, dataclass
from typing import Any

from examples.countdown.arms import ACTING, CONTINUED, RemedySizes, RLShape
from examples.countdown.families import ANY


@dataclass(frozen=True)
class Collapse:
    """RL from a pretrained policy until its entropy has collapsed."""

    family: str
    problems: int
    """Number of problems that it trains on."""
    shape: RLShape
    steps: int
    measure_every: int | None = None
    """Steps between two measurements of accuracy; None measures only at the beginning and at the end."""


@dataclass(frozen=True)
class Scenario:
    """What a collapsed policy is to learn, and the arms that try.

    First, RL goes on for `Plan.window` steps. That is the decision point: the signal of these steps is what a rule
    sees, and all arms start from the policy behind them, each with the same budget.
    """

    collapse: str
    """Name of the collapse that it starts from."""
    family: str
    problems: int
    """Number of problems of this family that it trains on."""
    arms: tuple[str, ...]
    shape: RLShape
    steps: int
    """Budget of every arm, in steps of RL; remedies are paid from it."""
    measure_every: int | None = None
    """Steps between two measurements of accuracy; None measures only after the remedy and at the end."""


@dataclass(frozen=True)
class Cascade:
    """Several shifts in a row, in which the policy that has learned one family gets the next."""

    collapse: str
    families: tuple[str, ...]
    problems: int
    """Number of problems of each family."""
    shape: RLShape
    steps: int
    """Budget of every shift, in steps of RL."""


@dataclass(frozen=True)
class Plan:
    name: str
    """Name of the folders with its runs and its plots, and of its report."""
    seeds: tuple[int, ...]
    """Every seed has a pretrained policy of its own."""
    layers: int
    """Layers of the policy."""
    pretraining_steps: int
    collapses: dict[str, Collapse]
    scenarios: dict[str, Scenario]
    cascade: Cascade
    window: int
    """Steps of RL before the decision, as many as the daemon's rule averages over."""
    remedies: RemedySizes
    probes: int
    """Prompts on which entropy is measured for a remedy, and before and after RL."""
    evaluation_problems: int
    """Held-out problems on which accuracy is measured, if the family has as many."""

    @property
    def sizes(self) -> dict[str, Any]:
        """Everything that a finished run depends on."""
        return {name: value for name, value in asdict(self).items() if name not in ("name", "seeds")}


SIGNAL = "signal"
"""The half of the experiment in which groups still vary."""
STALL = "stall"
"""The half in which every group fails."""
DECISION_ARMS = (CONTINUED, ACTING)
"""Going on and acting, by which a rule is judged."""

COLLAPSE_RL = RLShape(prompts=16, group=8, learning_rate=1e-3)
"""RL that is meant to collapse: in 600 steps on 256 easy problems, three of four policies lose the others.

The rate was chosen among 3e-4 to 3e-3, after arms had been seen on seeds 1 and 2."""
WIDE_RL = RLShape(prompts=8, group=16, learning_rate=1e-4)
STALL_RL = RLShape(prompts=16, group=8, learning_rate=1e-4)
"""RL of the arms: one learning rate for all of them."""

FULL = Plan(
    name="experiment",
    seeds=tuple(range(21, 29)),  # seeds 1, 2, 11 and 12 were used to choose the collapse
    layers=4,
    pretraining_steps=800,
    collapses={
        "wide": Collapse(ANY, problems=4096, shape=RLShape(8, 16, 3e-4), steps=1000, measure_every=500),
        "sums": Collapse("sums", problems=256, shape=COLLAPSE_RL, steps=600),
    },
    scenarios={
        SIGNAL: Scenario(
            "wide",
            ANY,
            problems=4096,
            arms=(CONTINUED, "hot_1.5", ACTING, "frozen_1.5x", "shrink", "fold_1.25"),
            shape=WIDE_RL,
            steps=500,
            measure_every=250,
        ),
        STALL: Scenario(
            "sums",
            "two_products",
            problems=4096,
            arms=(
                CONTINUED,
                "hot_1.2",
                "hot_1.5",
                ACTING,
                "live_3x",
                "frozen_1.5x",
                "entropy_bonus",
                "shrink",
                "auto",
            ),
            shape=STALL_RL,
            steps=240,
        ),
        "near": Scenario("sums", "one_product", problems=4096, arms=DECISION_ARMS, shape=STALL_RL, steps=240),
        "same": Scenario("sums", "sums", problems=256, arms=DECISION_ARMS, shape=STALL_RL, steps=240),
    },
    cascade=Cascade("sums", ("only_pairs", "only_triples", "only_sums"), problems=256, shape=COLLAPSE_RL, steps=400),
    window=20,
    remedies=RemedySizes(steps=100, prompts=64, signal_problems=128, signal_samples=16, rl_steps=20),
    probes=64,
    evaluation_problems=384,
)

TINY_RL = RLShape(prompts=2, group=2, learning_rate=1e-3)
QUICK = Plan(
    name="experiment-quick",
    seeds=(1, 2),
    layers=1,
    pretraining_steps=2,
    collapses={
        "wide": Collapse(ANY, problems=16, shape=TINY_RL, steps=5, measure_every=4),
        "sums": Collapse("sums", problems=16, shape=TINY_RL, steps=5),
    },
    scenarios={
        SIGNAL: Scenario("wide", ANY, 16, (CONTINUED, ACTING, "fold_1.25"), TINY_RL, steps=8, measure_every=4),
        STALL: Scenario("sums", "two_products", 16, FULL.scenarios[STALL].arms, TINY_RL, steps=8),
        "same": Scenario("sums", "sums", 16, DECISION_ARMS, TINY_RL, steps=8),
    },
    cascade=Cascade("sums", ("only_pairs", "only_triples"), problems=16, shape=TINY_RL, steps=10),
    window=2,
    remedies=RemedySizes(steps=2, prompts=2, signal_problems=8, signal_samples=2, rl_steps=2),
    probes=2,
    evaluation_problems=2,
)
"""It shows nothing: it runs every arm once, and its policies solve nothing."""
