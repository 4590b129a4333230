"""`numeric` on golds as GSM8K, AIME and MATH have them, and on golds that it refuses."""

from pathlib import Path

import pytest

from reheatd.errors import BadInputError
from reheatd.task_data import Problem
from workers.rewards.golds import parse_gold
from workers.rewards.numeric import numeric
from workers.rewards.verifier import Verifier

STORED = Path(__file__).parent / "stored" / "golds.txt"
GOLDS = [line.split(" ;; ") for line in STORED.read_text().splitlines() if not line.startswith("#")]
PARTS = 8
"""The golds are checked in this many tests, because LaTeX takes long to parse."""


def test_there_are_two_hundred_golds_and_none_twice() -> None:
    assert len({gold for gold, _, _ in GOLDS}) == len(GOLDS) >= 200


@pytest.mark.parametrize("part", range(PARTS))
def test_right_answers_score_one_and_wrong_ones_nothing(part: int) -> None:
    judged = [(gold, numeric(right, gold), numeric(wrong, gold)) for gold, right, wrong in GOLDS[part::PARTS]]
    assert judged == [(gold, 1.0, 0.0) for gold, _, _ in judged]


@pytest.mark.parametrize(
    "gold",
    [
        "",
        " ",
        "#### ",
        r"\frac{1}{",
        "Evelyn",
        "The answer is 5",
        "between 3 and 4",
        "unknown",
        "None",
        "?",
        "½",
        r"\boxed{}",
    ],
)
def test_what_is_neither_number_nor_latex_is_refused(gold: str) -> None:
    with pytest.raises(BadInputError, match="is neither a number nor an expression in LaTeX") as caught:
        parse_gold(gold)
    assert "\n" not in caught.value.message


def test_a_task_with_a_gold_that_does_not_parse_is_refused_with_its_line() -> None:
    golds = {1: "5", 2: r"\frac{\sqrt3}{3}", 3: "many", 4: r"\text{Tuesday}", 5: "many", 6: "a few, or so"}
    problems = [Problem([], gold, place=f"task.jsonl, line {line}") for line, gold in golds.items()]
    with Verifier("numeric", children=2) as verifier:
        verifier.check_answers([problems[0], problems[1], problems[3]])
        with pytest.raises(BadInputError) as caught:
            verifier.check_answers(problems)
    assert caught.value.message == (
        "task.jsonl, line 3: 'many' is neither a number nor an expression in LaTeX (and 1 more like it), so the reward "
        "'numeric' could not judge by it; correct the answer or leave the problem out, or choose another reward in "
        "task.reward"
    )
    assert caught.value.param == "task.path"
