"""Files of code problems as they come: HumanEval's and MBPP's fields, judged by `unit_tests`."""

import json
from pathlib import Path

import pytest

from reheatd.options import TaskOptions, WindowOptions
from reheatd.task_data import Problem, load_task
from workers.rewards.weighted import WeightedRewards

PROMPT = '''from typing import List


def half(value: int) -> int:
    return value // 2


def halves(values: List[int]) -> List[int]:
    """Halves every value, rounded down.

    >>> halves([4, 7])
    [2, 3]
    """
'''
TEST = """

METADATA = {"author": "someone"}


def check(candidate):
    assert candidate([4, 7]) == [2, 3]
    assert candidate([]) == []
    assert candidate([9]) == [half(9)]
"""
BODY = "    return [half(value) for value in values]\n"
WHOLE = "def halves(values: List[int]) -> List[int]:\n    return [value // 2 for value in values]\n"
HUMANEVAL = {"task_id": "x/0", "prompt": PROMPT, "entry_point": "halves", "canonical_solution": BODY, "test": TEST}
MBPP = {
    "task_id": 1,
    "prompt": "Write a function to double a number.",
    "code": "...",
    "test_imports": ["import math"],
    "test_list": ["assert double(4) == 8", "assert double(math.inf) == math.inf"],
}


def problem_of_a_file(folder: Path, record: dict[str, object]) -> Problem:
    file = folder / "task.jsonl"
    records = [{**record, "prompt": f"{record['prompt']}    # variant {number}\n"} for number in range(8)]
    file.write_text("\n".join(map(json.dumps, records)))
    task = load_task(TaskOptions(path=file), WindowOptions(probe_count=2))
    return task.held_out[0]


@pytest.mark.parametrize(
    ("record", "completion", "reward"),
    [
        (HUMANEVAL, BODY, 1.0),
        (HUMANEVAL, WHOLE, 1.0),
        (HUMANEVAL, f"Here it is:\n```python\n{WHOLE}```\nDone.", 1.0),
        (HUMANEVAL, f"```python\n{PROMPT}{BODY}```", 1.0),
        (HUMANEVAL, "    return values\n", 0.0),
        (HUMANEVAL, WHOLE.replace("// 2", "// 3"), 0.0),
        (HUMANEVAL, "I cannot do that.", 0.0),
        (HUMANEVAL, "    pass\n", 0.0),
        (MBPP, "```python\ndef double(x):\n    return 2 * x\n```", 1.0),
        (MBPP, "```python\ndef double(x):\n    return 3 * x\n```", 0.0),
    ],
)
def test_a_file_as_it_comes_is_judged_by_its_tests(
    tmp_path: Path, record: dict[str, object], completion: str, reward: float
) -> None:
    problem = problem_of_a_file(tmp_path, record)
    with WeightedRewards(TaskOptions(reward="unit_tests")) as rewards:
        rewards.check_answers([problem])
        assert rewards.score_all([(completion, problem)]) == [reward]
