"""When does reheating pay? Countdown, two halves, equal budgets.

    python -m examples.countdown.experiment [--quick] [--fresh] [--render]

Every seed begins with a policy that is pretrained from scratch and then collapsed by RL with a LoRA.

- In the half `signal`, RL goes on with the problems that it collapsed on. Groups of rollouts still vary.
- In the half `stall`, the policy has collapsed on few easy problems, which + and - solve, and gets problems that need
  two multiplications. Every group fails.

At the decision point, RL has gone on for 20 steps, which is what the daemon's rule averages over. All arms start there,
with one budget of completions for all: rollouts, probes, the measurements by which `auto` chooses and the rollouts that
remedies train on are counted alike. The learning rate of RL is the same for all arms and was fixed before any of them
ran.

Fixed before there were results, for the half `stall`, but for the depth of the collapse (see `COLLAPSE_RL`):

- primary: completions until take-off, which is when the mean reward of 10 steps reaches 0.05, restricted to the budget;
  and the share of no-op steps, in which no group varies;
- secondary: pass@1, pass@16 and nucleus accuracy on held-out problems of the new family, and pass@1 on held-out easy
  problems, all at the end of the budget;
- the comparison that decides is `live_1.5x` against `continued`. `takeoff_live_vs_continued` is the difference of their
  restricted means in completions, below 0 if reheating is faster, seeds paired. All other comparisons only describe.

In a cascade of three shifts, the daemon's rule decides when to act. At the decision points of all scenarios, two rules
are judged by what acting gains there (`examples.countdown.decisions`).
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.figures import RESULTS, Report
from examples.countdown.arms import CONTINUED
from examples.countdown.outcome import Outcome
from examples.countdown.page import render
from examples.countdown.plan import FULL, QUICK, Plan
from examples.countdown.plots import plot_curves, plot_differences, plot_frontier
from examples.countdown.results import all_figures
from examples.countdown.runs import RULE, Run, Runs
from examples.countdown.stall_plots import plot_decisions, plot_rewards, plot_take_off
from examples.countdown.tables import all_tables

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (DOCS / "experiment.md", DOCS / "remedies.md", DOCS / "entropy.md", ROOT / "README.md")
"""The pages that show figures of the experiment."""
FIGURES = "figures.json"
"""The report's figures, beside the plots."""
REHEATING = "reheating.md"

PLOTS = {
    "curves": plot_curves,
    "frontier": plot_frontier,
    "differences": plot_differences,
    "rewards": plot_rewards,
    "take-off": plot_take_off,
    "decisions": plot_decisions,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="When does reheating pay?")
    parser.add_argument("--quick", action="store_true", help="at a size that shows nothing")
    parser.add_argument("--fresh", action="store_true", help="forget the runs that are finished already")
    parser.add_argument("--render", action="store_true", help="run nothing; write the tables of the last report anew")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    pictures = RESULTS / plan.name if arguments.quick else DOCS / plan.name
    if not arguments.render:
        measure(plan, pictures, fresh=arguments.fresh)
    write_tables(plan, pictures, () if arguments.quick else PAGES)


def measure(plan: Plan, pictures: Path, *, fresh: bool) -> None:
    """Runs what is missing, and writes the report and the plots."""
    folder = RESULTS / plan.name
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    runs = Runs(folder, plan)
    outcome = run(plan, runs)
    report = Report(plan.name)
    for figure, value in all_figures(outcome).items():
        report.result(figure, value)
    report.result("seconds", runs.seconds)
    report.result("cpu_seconds", sum(record.cpu_seconds for record in outcome.records.values()))
    written = report.write(sizes=plan.sizes)
    pictures.mkdir(parents=True, exist_ok=True)
    shutil.copy(written, pictures / FIGURES)
    for name, plot in PLOTS.items():
        plot(pictures / f"{name}.png", outcome)


def write_tables(plan: Plan, pictures: Path, pages: Sequence[Path]) -> None:
    """Writes every table to a file beside the plots, and tables and figures into the pages, from the report there."""
    figures = json.loads((pictures / FIGURES).read_text())["results"]
    tables = all_tables(figures, plan)
    if (reheating := pictures / REHEATING).exists():  # made by `examples.countdown.reheating`
        tables["reheating"] = reheating.read_text()
    for name, table in tables.items():
        (pictures / f"{name}.md").write_text(table)
    for page in pages:
        page.write_text(render(page.read_text(), tables, figures))
    print(f"tables and plots are in {pictures}")


def run(plan: Plan, runs: Runs) -> Outcome:
    """Makes all runs, stage after stage; in each, the longest begin first."""
    runs.pretrain()
    records = runs.perform([Run("collapse", seed, name) for name in plan.collapses for seed in plan.seeds])
    records |= runs.perform([Run("decision", seed, name) for name in plan.scenarios for seed in plan.seeds])
    cascades = [Run("cascade", seed, arm=arm) for arm in (RULE, CONTINUED) for seed in plan.seeds]
    arms = [
        Run("arm", seed, name, arm)
        for name, scenario in sorted(plan.scenarios.items(), key=lambda item: -item[1].steps)
        for arm in scenario.arms
        for seed in plan.seeds
    ]
    return Outcome(plan, records | runs.perform([*cascades, *arms]))


if __name__ == "__main__":
    main()
