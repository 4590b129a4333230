"""The stall in three plots: reward of every arm, completions until take-off, and what tells where acting pays."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.countdown.decisions import PAYS, decisions
from examples.countdown.outcome import TAKE_OFF, TAKE_OFF_STEPS, Outcome
from examples.countdown.plan import STALL
from examples.countdown.plots import COLOURS
from examples.countdown.records import Step
from examples.countdown.seed_statistics import restricted, restricted_mean

GRID = 120
"""Points of a curve of rewards."""
LEAST_VARIED = 0.02
"""Where no group varied, the point is drawn here, because the axis is logarithmic."""


def plot_rewards(file: Path, outcome: Outcome) -> None:
    """Plots the mean reward of the newest steps over completions: every seed, and the mean over seeds."""
    scenario = outcome.plan.scenarios[STALL]
    budget = scenario.steps * scenario.shape.step
    grid = np.linspace(0, budget, GRID)
    columns = -(-len(scenario.arms) // 3)
    figure = Figure(figsize=(13, 2.6 * columns))
    every = figure.subplots(columns, 3, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, arm in zip(every, scenario.arms, strict=False):
        rewards = [smoothed(curve.steps, grid.tolist()) for curve in outcome.arm(STALL, arm)]
        for of_seed in rewards:
            axes.plot(grid, of_seed, color=COLOURS[arm], alpha=0.3, linewidth=0.8)
        axes.plot(grid, np.mean(rewards, axis=0), color=COLOURS[arm])
        axes.axhline(TAKE_OFF, color="0.6", linewidth=0.8, linestyle=":")
        axes.set_title(arm, fontsize=9)
    for axes in every[-3:]:
        axes.set_xlabel("completions since the decision")
    for axes in every[::3]:
        axes.set_ylabel(f"reward, {TAKE_OFF_STEPS} steps")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def smoothed(steps: Sequence[Step], grid: Sequence[float]) -> list[float]:
    """Mean reward of the newest `TAKE_OFF_STEPS` steps at each number of completions; 0 before the first step."""
    values: list[float] = []
    for samples in grid:
        newest = [step.reward for step in steps if step.samples <= samples][-TAKE_OFF_STEPS:]
        values.append(statistics.fmean(newest) if newest else 0.0)
    return values


def plot_take_off(file: Path, outcome: Outcome) -> None:
    """Plots the completions until take-off: every seed, and the restricted mean with its 95% interval."""
    scenario = outcome.plan.scenarios[STALL]
    budget = scenario.steps * scenario.shape.step
    figure = Figure(figsize=(8, 0.4 * len(scenario.arms) + 1))
    axes = figure.subplots()
    for place, arm in enumerate(reversed(scenario.arms)):
        times = outcome.take_offs(STALL, arm)
        mean, low, high = restricted_mean(times, budget)
        axes.plot(restricted(times, budget), [place] * len(times), "o", color=COLOURS[arm], alpha=0.35, markersize=4)
        axes.errorbar([mean], [place], xerr=[[mean - low], [high - mean]], fmt="D", color=COLOURS[arm], capsize=4)
    axes.axvline(budget, color="0.35", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(scenario.arms)), list(reversed(scenario.arms)))
    axes.set_xlim(left=0)
    axes.set_xlabel(f"completions until the mean reward of {TAKE_OFF_STEPS} steps is {TAKE_OFF} (dotted: the budget)")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def plot_decisions(file: Path, outcome: Outcome) -> None:
    """Plots the gain of acting at every decision point, over what the two rules see there."""
    found = decisions(outcome)
    figure = Figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2, sharey=True)
    for scenario in outcome.plan.scenarios:
        here = [one for one in found if one.scenario == scenario]
        gains = [one.gain for one in here]
        left.plot([max(one.varied, LEAST_VARIED) for one in here], gains, "o", label=scenario, alpha=0.7)
        right.plot([one.entropy_share for one in here], gains, "o", label=scenario, alpha=0.7)
    left.set_xscale("log")
    left.set_xlabel(f"groups that vary per step (none is drawn at {LEAST_VARIED})")
    left.set_ylabel("gain of acting, pass@1")
    right.set_xlabel("entropy, share of the pretrained policy's")
    right.legend(fontsize=8, loc="lower left")
    for axes in (left, right):
        _lines_of_gain(axes)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def _lines_of_gain(axes: Axes) -> None:
    axes.axhline(0, color="0.35", linewidth=1)
    axes.axhline(PAYS, color="0.6", linewidth=0.8, linestyle=":")
