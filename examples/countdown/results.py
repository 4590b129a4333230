"""All figures of the experiment by name, from the records of its runs."""

import math
import statistics
from collections.abc import Sequence

from examples.countdown.arms import ACTING, CONTINUED
from examples.countdown.decisions import decision_figures
from examples.countdown.outcome import Outcome, noop_share, take_off
from examples.countdown.plan import SIGNAL, STALL
from examples.countdown.records import Curve
from examples.countdown.runs import RULE
from examples.countdown.seed_statistics import (
    Interval,
    restricted,
    restricted_mean,
    sign_flip_interval,
    sign_flip_p,
)
from workers.candidates import CHEAP, COSTLY

METRICS = ("pass1", "pass16", "nucleus", "greedy", "entropy", "kept")
STARTS = ("pretrained", "decision")


def all_figures(outcome: Outcome) -> dict[str, float]:
    """Every figure by name. Those of the half in which groups still vary begin with `signal_`."""
    figures: dict[str, float] = {"seeds": len(outcome.plan.seeds)}
    figures |= stall_figures(outcome) | cascade_figures(outcome) | decision_figures(outcome)
    return figures | {f"{SIGNAL}_{name}": value for name, value in accuracy_figures(outcome, SIGNAL).items()}


def accuracy_figures(outcome: Outcome, scenario: str) -> dict[str, float]:
    """What every arm of a scenario ends with, and the differences to the arm that went on."""
    figures: dict[str, float] = {}
    records = outcome.decisions(scenario)
    for metric in METRICS:
        starts = ([record.base for record in records], [record.curve.points[-1] for record in records])
        for name, points in zip(STARTS, starts, strict=True):
            figures[f"{metric}_{name}"] = statistics.fmean(getattr(point, metric) for point in points)
    for arm in outcome.plan.scenarios[scenario].arms:
        for metric in METRICS:
            figures |= Interval.of(outcome.last(scenario, arm, metric)).figures(f"{metric}_{arm}")
            if arm != CONTINUED:
                name = f"{metric}_{arm}_minus_{CONTINUED}"
                most = math.inf if metric == "entropy" else 1.0
                figures |= _paired(name, outcome.differences(scenario, arm, metric), most)
        curves = outcome.arm(scenario, arm)
        figures[f"treated_pass1_{arm}"] = statistics.fmean(curve.points[0].pass1 for curve in curves)
        figures[f"treated_entropy_{arm}"] = statistics.fmean(curve.points[0].entropy for curve in curves)
        figures[f"refused_{arm}"] = sum(bool(treated.refused) for curve in curves for treated in curve.treated)
        figures[f"cost_{arm}"] = statistics.fmean(_cost(curve) for curve in curves)
    return figures


def stall_figures(outcome: Outcome) -> dict[str, float]:
    """The primary outcomes of the stall, and the secondary ones."""
    figures = accuracy_figures(outcome, STALL)
    scenario = outcome.plan.scenarios[STALL]
    budget = scenario.steps * scenario.shape.step
    figures["budget"] = budget
    went_on = restricted(outcome.take_offs(STALL, CONTINUED), budget)
    noops_went_on = [noop_share(curve.steps) for curve in outcome.arm(STALL, CONTINUED)]
    for arm in scenario.arms:
        times = outcome.take_offs(STALL, arm)
        noops = [noop_share(curve.steps) for curve in outcome.arm(STALL, arm)]
        figures |= restricted_mean(times, budget).figures(f"takeoff_{arm}")
        figures |= Interval.of(noops).within(0.0, 1.0).figures(f"noop_{arm}")
        figures[f"took_off_{arm}"] = sum(time is not None for time in times)
        if arm != CONTINUED:
            name = f"takeoff_{arm}_minus_{CONTINUED}"
            figures |= _paired(name, _less(restricted(times, budget), went_on), budget)
            figures |= _paired(f"noop_{arm}_minus_{CONTINUED}", _less(noops, noops_went_on), 1.0)
    for end in ("", "_low", "_high", "_p"):
        figures[f"takeoff_live_vs_continued{end}"] = figures[f"takeoff_{ACTING}_minus_{CONTINUED}{end}"]
    if "auto" in scenario.arms:
        chosen = [treated.remedy for curve in outcome.arm(STALL, "auto") for treated in curve.treated]
        figures |= {f"auto_chose_{remedy}": chosen.count(remedy) for remedy in (*CHEAP, *COSTLY)}
    return figures


def cascade_figures(outcome: Outcome) -> dict[str, float]:
    """Both ways through the shifts of the cascade: the rule with the remedy `auto`, and going on."""
    cascade = outcome.plan.cascade
    budget = cascade.steps * cascade.shape.step
    figures: dict[str, float] = {}
    totals: dict[str, list[float]] = {}
    curves_of = {
        arm: [outcome.cascade(arm, shift) for shift in range(len(cascade.families))] for arm in (CONTINUED, RULE)
    }
    for arm, shifts in curves_of.items():
        times = [restricted([take_off(curve.steps, budget) for curve in curves], budget) for curves in shifts]
        totals[arm] = [sum(of_seed) for of_seed in zip(*times, strict=True)]
        for number, (curves, of_shift) in enumerate(zip(shifts, times, strict=True), start=1):
            name = f"cascade_{{}}_{number}_{arm}"
            figures |= restricted_mean(of_shift, budget).figures(name.format("takeoff"))
            figures[name.format("took_off")] = sum(time < budget for time in of_shift)
            for metric in ("pass1", "pass16", "kept"):
                figures |= Interval.of([getattr(curve.points[-1], metric) for curve in curves]).figures(
                    name.format(metric)
                )
            figures[name.format("actions")] = statistics.fmean(len(curve.treated) for curve in curves)
        figures |= restricted_mean(totals[arm], budget * len(shifts)).figures(f"cascade_takeoff_{arm}")
    actions = [treated for curves in curves_of[RULE] for curve in curves for treated in curve.treated]
    figures["cascade_action_cost"] = statistics.fmean(treated.samples for treated in actions) if actions else 0.0
    difference = _less(totals[RULE], totals[CONTINUED])
    return figures | _paired("cascade_takeoff_rule_minus_continued", difference, budget * len(cascade.families))


def _cost(curve: Curve) -> int:
    """Completions that remedies sampled."""
    return sum(treated.samples for treated in curve.treated)


def _less(values: Sequence[float], rivals: Sequence[float]) -> list[float]:
    return [value - rival for value, rival in zip(values, rivals, strict=True)]


def _paired(name: str, differences: Sequence[float], most: float) -> dict[str, float]:
    """Mean, interval and p-value of paired differences, of which none is further from 0 than `most`."""
    figures = sign_flip_interval(differences).within(-most, most).figures(name)
    return figures | {f"{name}_p": sign_flip_p(differences)}
