"""Named rewards and task files."""

import json
from pathlib import Path

import pytest

from reheatd.entropy.probes import load_probes
from reheatd.errors import BadInputError
from workers.data.make_arithmetic import problems
from workers.evaluation import wilson_interval
from workers.rewards import load_reward
from workers.task_data import ARITHMETIC, load_prompts, load_task


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("5", 1.0),
        ("The sum of 2 and 3 is 5.", 1.0),
        ("2 + 3 = 5", 1.0),
        ("The answer is **5**.", 1.0),
        ("$\\boxed{5}$", 1.0),
        ("10/2", 1.0),
        ("2 + 3 = 6", 0.0),
        ("five apples", 0.0),
        ("", 0.0),
    ],
)
def test_numeric_reward(completion: str, reward: float) -> None:
    assert load_reward("numeric")(completion, "5") == reward


def test_exact_reward_ignores_case_and_space_only() -> None:
    exact = load_reward("exact")
    assert exact(" Canberra\n", "canberra") == 1.0
    assert exact("Canberra.", "Canberra") == 0.0


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("fuzzy", "use exact, json_schema, numeric, regex, unit_tests or module:function"),
        ("no_such_module_anywhere:f", "No module named"),
        ("json:no_such_function", "json has no function no_such_function"),
    ],
)
def test_unusable_reward_names_itself(name: str, part: str) -> None:
    with pytest.raises(BadInputError, match=part) as caught:
        load_reward(name)
    assert name in caught.value.message


def test_task_split_is_fixed_and_disjoint(tmp_path: Path) -> None:
    records = [{"prompt": f"What is {i} + 1?", "answer": i + 1} for i in range(20)]
    forward, backward = tmp_path / "forward.jsonl", tmp_path / "backward.jsonl"
    forward.write_text("\n".join(map(json.dumps, records)))
    backward.write_text("\n\n".join(map(json.dumps, reversed(records))))
    first, second = load_task(forward, 6), load_task(backward, 6)
    assert first.held_out == second.held_out
    assert len(first.held_out) == 6 and len(first.train) == 14
    assert not {problem.messages[0]["content"] for problem in first.held_out} & {
        problem.messages[0]["content"] for problem in first.train
    }
    assert len(load_task(forward, 100).held_out) == 10


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"prompt": "a", "answer": ', "not valid JSON"),
        ("[1]", "needs a JSON object, got list"),
        ('{"prompt": "a"}', '"answer" must be text or a number, got None'),
        ('{"prompt": "a", "answer": true}', '"answer" must be text or a number'),
        ('{"answer": "1"}', 'needs either "prompt" or "messages"'),
        ('{"prompt": "a", "messages": [], "answer": "1"}', 'needs either "prompt" or "messages"'),
        ('{"prompt": " ", "answer": "1"}', '"prompt" must be text'),
        ('{"messages": {"role": "user", "content": "a"}, "answer": "1"}', '"messages" must be a list'),
        ('{"messages": [{"role": "user"}], "answer": "1"}', 'without text as "content"'),
    ],
)
def test_broken_task_line_is_named(tmp_path: Path, line: str, part: str) -> None:
    file = tmp_path / "task.jsonl"
    file.write_text('{"prompt": "a", "answer": "1"}\n\n' + line + "\n")
    with pytest.raises(BadInputError, match=r"task\.jsonl, line 3: ") as caught:
        load_task(file, 1)
    assert part in caught.value.message
    assert caught.value.param == "task.path"


def test_missing_task_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"nowhere\.jsonl"):
        load_task(tmp_path / "nowhere.jsonl", 1)


def test_bundled_data() -> None:
    assert [json.loads(line) for line in ARITHMETIC.read_text().splitlines()] == problems()
    task = load_task(None, 48)
    assert len(task.held_out) == 48 and len(task.train) >= 400
    prompts = {messages[-1]["content"] for messages in load_prompts()}
    probes = {str(probe[-1]["content"]) for probe in load_probes(None, 64).probes}
    assert len(prompts) >= 100
    assert not prompts & probes
    assert not probes & {problem.messages[-1]["content"] for problem in task.train}


def test_wilson_interval_matches_published_values() -> None:
    assert wilson_interval(15, 30, 0.95) == pytest.approx((0.3315, 0.6685), abs=1e-4)
    assert wilson_interval(0, 10, 0.95) == pytest.approx((0.0, 0.2775), abs=1e-4)
