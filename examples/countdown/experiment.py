"""Measures whether a reheated policy is a better start for continued RL: Countdown, four arms, equal budgets.

    python -m examples.countdown.experiment [--quick] [--fresh]

There is one pretrained policy. For every seed, RL with LoRA runs until the policy's entropy has collapsed. Then the
arms run, each with the learning rate and tau that were best for it on another seed and other problems.
"""

import argparse
import shutil
import statistics
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from bench.figures import RESULTS, Report
from examples.countdown.arms import ARMS, STEP, Choice, Measured, Sizes
from examples.countdown.outcome import Outcome
from examples.countdown.plots import plot_curves, plot_differences, plot_frontier
from examples.countdown.policy import pretrain
from examples.countdown.runs import PRETRAINED, Run, Runs

DOCS = Path(__file__).parents[2] / "docs"
TUNING_SEED = 0


@dataclass(frozen=True)
class Plan:
    name: str
    """Name of the folders with its runs and its plots, and of its report."""
    pretraining_steps: int
    collapse: Choice
    sizes: Sizes
    seeds: range
    choices: dict[str, list[Choice]]
    """The choices that are tried for each arm, equally many for all."""


FULL = Plan(
    name="experiment",
    pretraining_steps=800,
    collapse=Choice(3e-4),
    sizes=Sizes(
        collapse=1000 * STEP,
        budget=700 * STEP,
        evaluate_every=140 * STEP,
        evaluation_problems=384,
        reheat_steps=40,
    ),
    seeds=range(1, 7),
    choices={
        "continued": [Choice(rate) for rate in (2e-5, 5e-5, 1e-4, 2e-4, 3e-4, 6e-4)],
        **{arm: [Choice(*pair) for pair in product((5e-5, 1e-4, 3e-4), (1.25, 1.5))] for arm in ARMS[1:]},
    },
)
QUICK = Plan(
    name="experiment-quick",
    pretraining_steps=10,
    collapse=Choice(3e-4),
    sizes=Sizes(collapse=2 * STEP, budget=5 * STEP, evaluate_every=3 * STEP, evaluation_problems=8, reheat_steps=2),
    seeds=range(1, 3),
    choices={arm: [Choice(3e-4, 1.0 if arm == "continued" else 1.5)] for arm in ARMS},
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Is a reheated policy a better start for continued RL?")
    parser.add_argument("--quick", action="store_true", help="at a size that shows nothing")
    parser.add_argument("--fresh", action="store_true", help="forget the runs that are finished already")
    arguments = parser.parse_args()
    started = time.monotonic()
    plan = QUICK if arguments.quick else FULL
    folder = RESULTS / plan.name
    if arguments.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    outcome = run(plan, prepare(plan, folder))
    report = Report(plan.name)
    for figure, value in outcome.figures().items():
        report.result(figure, value)
    report.result("seconds", time.monotonic() - started)
    report.write(choices={arm: asdict(choice) for arm, choice in outcome.choices.items()})
    pictures = folder if plan is QUICK else DOCS / plan.name
    pictures.mkdir(parents=True, exist_ok=True)
    (pictures / "table.md").write_text(outcome.table())
    plot_curves(pictures / "curves.png", outcome)
    plot_frontier(pictures / "frontier.png", outcome)
    plot_differences(pictures / "differences.png", outcome)
    print(f"table and plots are in {pictures}")


def prepare(plan: Plan, folder: Path) -> Runs:
    """Pretrains the policy if needed, and returns the runs in `folder` that start from it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PRETRAINED).exists():
        pretrain(folder / PRETRAINED, plan.pretraining_steps)
    return Runs(folder, plan.sizes)


def run(plan: Plan, runs: Runs) -> Outcome:
    parted = [Run("collapse", plan.collapse, "tuning", TUNING_SEED)]
    parted += [Run("collapse", plan.collapse, "held_out", seed) for seed in plan.seeds]
    collapses = runs.perform(parted)
    trials = [Run(arm, choice, "tuning", TUNING_SEED) for arm in ARMS for choice in plan.choices[arm]]
    tried = runs.perform(trials)
    chosen = {
        arm: max((trial for trial in trials if trial.arm == arm), key=lambda trial: settled(tried[trial]))
        for arm in ARMS
    }
    finals = {arm: [replace(chosen[arm], split="held_out", seed=seed) for seed in plan.seeds] for arm in ARMS}
    results = runs.perform([final for arm in ARMS for final in finals[arm]])
    return Outcome(
        collapses=[collapses[one] for one in parted[1:]],
        arms={arm: [results[final] for final in finals[arm]] for arm in ARMS},
        choices={arm: chosen[arm].choice for arm in ARMS},
        trials={trial: tried[trial] for trial in trials},
    )


def settled(points: list[Measured]) -> float:
    """Mean pass@1 over the last three measurements, because at high learning rates a single one is mostly luck."""
    return statistics.fmean(point.pass1 for point in points[-3:])


if __name__ == "__main__":
    main()
