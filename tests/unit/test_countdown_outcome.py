"""What is read from the experiment's runs, on runs that are made up."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from examples.countdown.arms import ACTING, CONTINUED
from examples.countdown.decisions import decisions
from examples.countdown.experiment import DOCS, FIGURES, PAGES, REHEATING
from examples.countdown.outcome import Outcome, noop_share, take_off
from examples.countdown.page import render
from examples.countdown.plan import FULL, SIGNAL, STALL
from examples.countdown.records import Curve, Measured, Record, Step, Treated
from examples.countdown.results import all_figures
from examples.countdown.runs import RULE, Run, Runs
from examples.countdown.tables import all_tables
from reheatd.errors import BadInputError

PLAN = replace(FULL, seeds=tuple(range(1, 9)))
STEP = PLAN.scenarios[STALL].shape.step
BUDGET = PLAN.scenarios[STALL].steps * STEP


def step(number: int, reward: float, varied: int = 0) -> Step:
    """The step with this number, from 1."""
    return Step(samples=number * STEP, reward=reward, groups=16, varied=varied, all_fail=16 - varied, all_pass=0)


def learning(first: int, count: int = 240) -> list[Step]:
    """Steps of which those from `first` on vary and are rewarded."""
    return [step(n, 0.1 * (n >= first), 5 * (n >= first)) for n in range(1, count + 1)]


def measured(pass1: float, entropy: float = 0.1) -> Measured:
    return Measured(
        samples=BUDGET, pass1=pass1, pass16=2 * pass1, greedy=pass1, nucleus=pass1, entropy=entropy, kept=0.4
    )


def record(
    steps: list[Step], pass1: float, treated: list[Treated] | None = None, entropy: float = 0.1, shifts: int = 1
) -> Record:
    points = [measured(0.0, entropy), measured(pass1, entropy)]
    curve = Curve(points=points, steps=steps, treated=treated or [])
    return Record(curves=[curve] * shifts, base=measured(0.1, entropy=0.5), cpu_seconds=1.0)


def reheated(samples: int) -> list[Treated]:
    return [Treated(remedy="ts_opsd", samples=samples, entropy_before=0.1, entropy_after=0.15)]


def outcome() -> Outcome:
    """Acting pays in the stall, most in the later seeds, and nowhere else. Entropy is the same everywhere."""
    records: dict[Run, Record] = {}
    for seed in PLAN.seeds:
        for name in PLAN.collapses:
            records[Run("collapse", seed, name)] = record([], 0.5)
        for name, scenario in PLAN.scenarios.items():
            varied = 0 if name == STALL else 3 + seed
            window = [step(number, 0.0, varied) for number in range(1, PLAN.window + 1)]
            records[Run("decision", seed, name)] = record(window, 0.0)
            for arm in scenario.arms:
                records[Run("arm", seed, name, arm)] = record(learning(1, 20), 0.3)
        records[Run("arm", seed, STALL, CONTINUED)] = record(learning(first=500), 0.0)
        records[Run("arm", seed, STALL, ACTING)] = record(learning(first=20 * seed), 0.3, reheated(1024))
        records[Run("cascade", seed, arm=CONTINUED)] = record(learning(500), 0.0, shifts=3)
        records[Run("cascade", seed, arm=RULE)] = record(learning(100), 0.3, reheated(9000), shifts=3)
    return Outcome(PLAN, records)


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    return all_figures(outcome())


def test_take_off_is_when_the_mean_of_ten_steps_is_high_enough() -> None:
    rewards = [0.0] * 15 + [0.1] * 5
    steps = [step(number, reward) for number, reward in enumerate(rewards, start=1)]
    assert take_off(steps, BUDGET) == 20 * STEP
    assert take_off(steps[:-1], BUDGET) is None
    assert take_off(steps, 20 * STEP - 1) is None


def test_the_first_nine_steps_are_no_take_off() -> None:
    assert take_off([step(number, 1.0) for number in range(1, 10)], BUDGET) is None
    assert take_off([step(number, 1.0) for number in range(1, 11)], BUDGET) == 10 * STEP


def test_a_step_without_a_group_that_varies_is_a_no_op() -> None:
    assert noop_share([step(1, 0.0), step(2, 0.1, varied=1), step(3, 1.0), step(4, 0.0)]) == 0.75
    assert noop_share([]) == 0


def test_the_primary_outcomes_of_the_stall(figures: dict[str, float]) -> None:
    assert figures[f"takeoff_{CONTINUED}"] == BUDGET
    assert figures[f"took_off_{CONTINUED}"] == 0
    # With a reward of 0.1 from step 20 * seed on, five steps later the mean of ten is 0.05.
    times = [(20 * seed + 4) * STEP for seed in PLAN.seeds]
    assert figures[f"takeoff_{ACTING}"] == pytest.approx(sum(times) / 8)
    assert figures["takeoff_live_vs_continued"] == pytest.approx(sum(times) / 8 - BUDGET)
    assert figures["takeoff_live_vs_continued_high"] < 0
    assert figures["takeoff_live_vs_continued_p"] == 2 / 256
    assert figures[f"noop_{CONTINUED}"] == 1
    assert figures[f"noop_{ACTING}"] == pytest.approx(sum(20 * seed - 1 for seed in PLAN.seeds) / 8 / 240)
    assert figures[f"cost_{ACTING}"] == 1024


def test_a_rule_that_sees_the_signal_knows_where_acting_pays_and_entropy_does_not(figures: dict[str, float]) -> None:
    assert figures["decisions"] == 8 * len(PLAN.scenarios)
    assert figures["decisions_that_pay"] == figures["stalled_that_pay"] == 8
    assert figures["stalled_that_do_not_pay"] == 0
    assert figures["rule_auc"] == figures["rule_auc_low"] == 1
    assert figures["entropy_auc"] == 0.5
    assert figures["rule_auc_minus_entropy_auc"] == 0.5
    assert {one.scenario for one in decisions(outcome()) if one.stalled} == {STALL}


def test_the_cascade_is_compared_over_all_its_shifts(figures: dict[str, float]) -> None:
    cascade = PLAN.cascade
    budget = cascade.steps * cascade.shape.step
    assert figures[f"cascade_takeoff_{CONTINUED}"] == 3 * budget
    assert figures["cascade_takeoff_rule_minus_continued"] == pytest.approx(3 * (104 * STEP - budget))
    assert figures[f"cascade_actions_2_{RULE}"] == 1
    assert figures[f"cascade_took_off_3_{RULE}"] == 8


def test_every_arm_is_in_its_table(figures: dict[str, float]) -> None:
    tables = all_tables(figures, PLAN)
    for arm in PLAN.scenarios[STALL].arms:
        assert f"| {arm} | " in tables["stall"]
    for arm in PLAN.scenarios[SIGNAL].arms:
        assert f"| {arm} | 0.300 [0.300, 0.300] | " in tables["signal"]
    assert "| varied groups | 1.000 [1.000, 1.000] |" in tables["rule"]
    assert "p 0.008" in tables["cascade"]
    for table in tables.values():
        rows = [line for line in table.splitlines() if line.startswith("| ---") or line.startswith("| |")]
        assert rows


def test_the_pages_show_the_figures_of_the_last_report() -> None:
    folder = DOCS / PLAN.name
    figures = json.loads((folder / FIGURES).read_text())["results"]
    tables = all_tables(figures, PLAN) | {"reheating": (folder / REHEATING).read_text()}
    pages = [page.read_text() for page in PAGES]
    assert [render(page, tables, figures) for page in pages] == pages
    assert all(any(table in page for page in pages) for table in tables.values())


def test_figures_in_sentences_are_written_with_their_form_and_interval() -> None:
    figures = {"gain_1.5x": 0.123, "gain_1.5x_low": 0.1, "gain_1.5x_high": 0.15}
    page = "gains <!-- gain_1.5x:decimals+ -->nothing<!-- / --> in <!-- gain_1.5x:share -->\n<!-- / --> of cases"
    said = re.sub("<!-- .*? -->", "", render(page, {}, figures))
    assert said == "gains 0.123 [0.100, 0.150] in 12% of cases"


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("<!-- table: stalled -->\n<!-- end of table -->\n", "table stalled, which there is not; near it are .'stall'"),
        ("<!-- gains:share -->1%<!-- / -->", "figure gains, which there is not; near it are .'gain'"),
        ("<!-- gain:shares -->1%<!-- / -->", "form shares, which there is not; near it are .'share'"),
    ],
)
def test_what_a_page_names_and_is_not_there_is_refused(page: str, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        render(page, {"stall": ""}, {"gain": 0.01})


def test_results_of_other_sizes_are_not_gone_on_with(tmp_path: Path) -> None:
    Runs(tmp_path, PLAN)
    Runs(tmp_path, replace(PLAN, seeds=(1,)))
    with pytest.raises(BadInputError, match="use --fresh"):
        Runs(tmp_path, replace(PLAN, window=21))
