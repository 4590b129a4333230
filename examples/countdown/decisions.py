"""Does a rule know when to act? Every decision point of the experiment is one case.

A rule sees the last steps of RL before the decision: how many groups varied per step, and what share of the pretrained
policy's entropy is left. Acting pays if the arm `live_1.5x` ends with a held-out pass@1 that is higher by more than
`PAYS` than that of the arm that only goes on, from the same policy and with the same budget. The same is asked of the
arm `shrink`, where there is one; that question came up only with the results.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from examples.countdown.arms import ACTING
from examples.countdown.outcome import Outcome
from examples.countdown.seed_statistics import Prediction, auc_over_seeds
from reheatd.config_tables import EntropySection
from reheatd.entropy.regime import is_stalled, mean_varied

PAYS = 0.02
"""Least gain in pass@1 that pays; smaller ones are within what measuring can tell apart."""


@dataclass(frozen=True)
class Decision:
    """One decision point."""

    scenario: str
    seed: int
    varied: float
    """Groups that vary per step."""
    stalled: bool
    """The daemon's verdict at its default threshold."""
    entropy_share: float
    """Entropy over that of the pretrained policy, on the same held-out problems."""
    gain: float
    """pass@1 at the end of the arm that acts, less that of going on."""

    @property
    def pays(self) -> bool:
        return self.gain > PAYS


def decisions(outcome: Outcome, acting: str = ACTING) -> list[Decision]:
    """The decision points of all scenarios that have the arm `acting`, by scenario and seed."""
    rule = EntropySection(stall_steps=outcome.plan.window)
    found: list[Decision] = []
    for scenario, size in outcome.plan.scenarios.items():
        if acting not in size.arms:
            continue
        gains = outcome.differences(scenario, acting, "pass1")
        for seed, record, gain in zip(outcome.plan.seeds, outcome.decisions(scenario), gains, strict=True):
            signals = [step.signal for step in record.curve.steps]
            assert record.base is not None
            found.append(
                Decision(
                    scenario,
                    seed,
                    varied=mean_varied(signals),
                    stalled=is_stalled(signals, rule),
                    entropy_share=record.curve.points[-1].entropy / record.base.entropy,
                    gain=gain,
                )
            )
    return found


def decision_figures(outcome: Outcome) -> dict[str, float]:
    """How well the signal, and entropy alone, tell where acting pays."""
    figures = _areas(decisions(outcome), "")
    if any("shrink" in scenario.arms for scenario in outcome.plan.scenarios.values()):
        figures |= _areas(decisions(outcome, "shrink"), "_shrink")
    found = decisions(outcome)
    for scenario in outcome.plan.scenarios:
        here = [one for one in found if one.scenario == scenario]
        for name, value in (
            ("varied", [one.varied for one in here]),
            ("entropy_share", [one.entropy_share for one in here]),
            ("gain", [one.gain for one in here]),
        ):
            figures[f"decision_{name}_{scenario}"] = statistics.fmean(value)
    return figures


def _areas(found: Sequence[Decision], suffix: str) -> dict[str, float]:
    """Areas under ROC curves, with a bootstrap over seeds, and where acting pays by the daemon's verdict."""
    cases = [Prediction(one.seed, one.pays, {"rule": -one.varied, "entropy": -one.entropy_share}) for one in found]
    figures: dict[str, float] = {
        f"decisions{suffix}": len(found),
        f"decisions_that_pay{suffix}": sum(one.pays for one in found),
        f"stalled_that_pay{suffix}": sum(one.pays and one.stalled for one in found),
        f"stalled_that_do_not_pay{suffix}": sum(one.stalled and not one.pays for one in found),
        f"most_varied_that_pays{suffix}": max((one.varied for one in found if one.pays), default=float("nan")),
    }
    figures |= auc_over_seeds(cases, "rule").figures(f"rule_auc{suffix}")
    figures |= auc_over_seeds(cases, "entropy").figures(f"entropy_auc{suffix}")
    return figures | auc_over_seeds(cases, "rule", "entropy").figures(f"rule_auc_minus_entropy_auc{suffix}")
