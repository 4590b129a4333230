"""The experiment's tables in Markdown. Each is made from the figures of the report alone, so that it can be made again
from the report's file."""

from collections.abc import Callable, Mapping, Sequence

from examples.countdown.arms import ACTING, CONTINUED
from examples.countdown.plan import SIGNAL, STALL, Plan
from examples.countdown.results import STARTS
from examples.countdown.runs import RULE

Figures = Mapping[str, float]

LABELS = {
    "pass1": "pass@1",
    "pass16": "pass@16",
    "nucleus": "nucleus accuracy",
    "greedy": "greedy",
    "entropy": "entropy, nats per token",
    "kept": "easy problems kept, pass@1",
}


def stall_table(figures: Figures, plan: Plan) -> str:
    """The primary outcomes of every arm, beside what its remedy did at once."""
    head = [
        "",
        "completions until take-off",
        "seeds that took off",
        "less that of going on",
        "p",
        "no-op steps",
        "less those of going on",
        "p",
        "completions for the remedy",
        "pass@1 after it",
        "entropy after it",
    ]
    rows = [
        [
            arm,
            interval(figures, f"takeoff_{arm}", completions),
            _of(figures, f"took_off_{arm}", "seeds"),
            *_less(figures, f"takeoff_{arm}_minus_{CONTINUED}", completions),
            interval(figures, f"noop_{arm}", share),
            *_less(figures, f"noop_{arm}_minus_{CONTINUED}", share),
            completions(figures[f"cost_{arm}"]),
            f"{figures[f'treated_pass1_{arm}']:.4f}",
            decimals(figures[f"treated_entropy_{arm}"]),
        ]
        for arm in plan.scenarios[STALL].arms
    ]
    return _table(head, rows)


def accuracy_table(figures: Figures, plan: Plan, scenario: str, metrics: Sequence[str]) -> str:
    """Where a scenario started, what every arm ended with, and the differences to going on with their p-values."""
    prefix = f"{SIGNAL}_" if scenario == SIGNAL else ""
    rows: list[list[str]] = []
    for start in STARTS:
        rows.append([start, *(decimals(figures[f"{prefix}{metric}_{start}"]) for metric in metrics)])
    arms = plan.scenarios[scenario].arms
    for arm in arms:
        rows.append([arm, *(interval(figures, f"{prefix}{metric}_{arm}", decimals) for metric in metrics)])
    for arm in arms:
        if arm != CONTINUED:
            names = [f"{prefix}{metric}_{arm}_minus_{CONTINUED}" for metric in metrics]
            cells = [f"{interval(figures, name, decimals)}, p {figures[f'{name}_p']:.3f}" for name in names]
            rows.append([f"{arm} less {CONTINUED}", *cells])
    return _table(["", *(LABELS[metric] for metric in metrics)], rows)


def cascade_table(figures: Figures, plan: Plan) -> str:
    """Both ways through the cascade, shift by shift."""
    rows: list[list[str]] = []
    for number, family in enumerate(plan.cascade.families, start=1):
        for arm in (CONTINUED, RULE):
            name = f"cascade_{{}}_{number}_{arm}"
            rows.append(
                [
                    f"{number}: {family}",
                    arm,
                    interval(figures, name.format("takeoff"), completions),
                    _of(figures, name.format("took_off"), "seeds"),
                    f"{figures[name.format('actions')]:.1f}",
                    interval(figures, name.format("pass1"), decimals),
                    interval(figures, name.format("pass16"), decimals),
                    interval(figures, name.format("kept"), decimals),
                ]
            )
    for arm in (CONTINUED, RULE):
        rows.append(["all", arm, interval(figures, f"cascade_takeoff_{arm}", completions), *[""] * 5])
    name = "cascade_takeoff_rule_minus_continued"
    cell = f"{interval(figures, name, completions)}, p {figures[f'{name}_p']:.3f}"
    rows.append(["all", f"{RULE} less {CONTINUED}", cell, *[""] * 5])
    head = [
        "shift",
        "",
        "completions until take-off",
        "seeds that took off",
        "actions per seed",
        "pass@1",
        "pass@16",
        "pass@1 on the problems before the shift",
    ]
    return _table(head, rows)


def rule_table(figures: Figures, plan: Plan) -> str:
    """What a rule sees at the decision points, what acting gains there, and how well each rule tells."""
    rows = [
        [
            f"{name}, {scenario.family}",
            f"{figures[f'decision_varied_{name}']:.2f}",
            share(figures[f"decision_entropy_share_{name}"]),
            f"{figures[f'decision_gain_{name}']:+.3f}",
        ]
        for name, scenario in plan.scenarios.items()
    ]
    head = ["decision point", "groups that vary per step", "entropy left", "gain of acting, pass@1"]
    names = {"varied groups": "rule_auc", "entropy alone": "entropy_auc", "difference": "rule_auc_minus_entropy_auc"}
    suffixes = {ACTING: "", "shrink": "_shrink"} if "rule_auc_shrink" in figures else {ACTING: ""}
    areas = [
        [label, *(interval(figures, f"{name}{suffix}", decimals) for suffix in suffixes.values())]
        for label, name in names.items()
    ]
    for label, name, of in (
        ("acting pays at", "decisions_that_pay", "decisions"),
        ("of these, stalled", "stalled_that_pay", "decisions_that_pay"),
    ):
        areas.append([label, *(_of(figures, f"{name}{end}", f"{of}{end}") for end in suffixes.values())])
    areas.append(
        [
            "stalled where acting does not pay",
            *(f"{figures[f'stalled_that_do_not_pay{end}']:.0f}" for end in suffixes.values()),
        ]
    )
    return _table(head, rows) + "\n" + _table(["area under the ROC curve", *suffixes], areas)


def interval(figures: Figures, name: str, form: Callable[[float], str]) -> str:
    """An estimate with its interval in one cell."""
    mean, low, high = (form(figures[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{mean} [{low}, {high}]"


def completions(value: float) -> str:
    return f"{value:,.0f}"


def share(value: float) -> str:
    return f"{value:.0%}"


def decimals(value: float) -> str:
    return f"{value:.3f}"


FORMS: dict[str, Callable[[float], str]] = {
    "completions": completions,
    "share": share,
    "decimals": decimals,
    "count": lambda value: f"{value:.0f}",
    "area": lambda value: f"{value:.2f}",
    "minutes": lambda seconds: f"{seconds / 60:.0f}",
}
"""How figures are written in sentences."""


def _of(figures: Figures, part: str, whole: str) -> str:
    return f"{figures[part]:.0f} of {figures[whole]:.0f}"


def _less(figures: Figures, name: str, form: Callable[[float], str]) -> list[str]:
    """The cells of a difference and of its p-value; empty for the arm that the others are compared with."""
    return [interval(figures, name, form), f"{figures[f'{name}_p']:.3f}"] if name in figures else ["", ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def all_tables(figures: Figures, plan: Plan) -> dict[str, str]:
    """Every table by the name of its block in the page."""
    return {
        "stall": stall_table(figures, plan),
        "stall-accuracy": accuracy_table(figures, plan, STALL, ("pass1", "pass16", "nucleus", "kept", "entropy")),
        "cascade": cascade_table(figures, plan),
        "rule": rule_table(figures, plan),
        "signal": accuracy_table(figures, plan, SIGNAL, ("pass1", "pass16", "greedy", "entropy")),
    }
