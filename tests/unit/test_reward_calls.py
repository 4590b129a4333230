"""What a reward is given, several rewards with weights, and answers that a reward cannot use."""

from pathlib import Path
from typing import Any

import pytest

from reheatd.errors import BadInputError
from reheatd.options import TaskOptions
from reheatd.task_data import Problem
from workers.rewards.verifier import MAX_SAID, Verifier
from workers.rewards.weighted import WeightedRewards, weights_of

REWARDS = """
from workers.rewards.judged import Judged

def one(completion):
    return len(completion)

def two(text, expected):
    return text == expected

def swapped(answer, gold):
    return 1 if answer.startswith(gold) else 0.25

def whole(completion, answer, prompt, record):
    assert prompt == record["messages"]
    return record["points"][completion]

def named(completion, *, record):
    return record["points"][completion]

def anything(*args, **kwargs):
    return len(args) + 10 * sorted(kwargs).index("record")

def lenient(completion, answer, tolerance=0.5):
    return tolerance

def three(completion, answer, tolerance):
    return 1

class Polite:
    def __call__(self, completion, answer):
        return 0.5 * ("please" in completion)

polite = Polite()

def wordy(completion, answer):
    return Judged(0.5, "two\\n  lines, \\ud800") if completion == "ab" else Judged(0.75, 1000 * completion)

def picky(completion, answer):
    return 1

def only_short(answer):
    if len(answer) > 2:
        raise ValueError(f"{answer} is too long")

picky.check_answer = only_short
"""
PROMPT = [{"role": "user", "content": "How much?"}]
PROBLEM = Problem(PROMPT, "ab", {"messages": PROMPT, "points": {"ab": 0.5, "abc": 0.75}}, "task.jsonl, line 3")


@pytest.fixture(autouse=True)
def my_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)


def scores(name: str) -> list[float]:
    with Verifier(f"my_rewards:{name}", children=1) as verifier:
        rewards = verifier.score_all([("ab", PROBLEM), ("abc", PROBLEM)])
        assert not any(vars(verifier.unscored).values())
        return rewards


@pytest.mark.parametrize(
    ("name", "rewards"),
    [
        ("one", [2, 3]),
        ("two", [1, 0]),
        ("swapped", [1, 1]),
        ("whole", [0.5, 0.75]),
        ("named", [0.5, 0.75]),
        ("anything", [12, 12]),
        ("lenient", [0.5, 0.5]),
        ("polite", [0, 0]),
    ],
)
def test_a_reward_gets_as_much_as_it_takes(name: str, rewards: list[float]) -> None:
    assert scores(name) == rewards


def test_a_reward_that_takes_more_is_refused() -> None:
    with pytest.raises(BadInputError, match="'my_rewards:three' cannot be used: it also takes tolerance; a reward"):
        scores("three")


def test_rewards_are_weighted_and_the_first_decides_what_is_solved() -> None:
    task = TaskOptions(rewards={"my_rewards:two": 1.0, "my_rewards:polite": 0.2, "my_rewards:named": -2})
    record = {"points": {"ab": 0.5, "please": 0}}
    problem = Problem(PROMPT, "ab", record)
    answered = [("ab", problem), ("please", problem), ("lost", problem)]
    with WeightedRewards(task) as rewards:
        scored = rewards.score_weighted(answered)
        assert scored.totals == pytest.approx([0.0, 0.1, 0.0])
        assert scored.solving == rewards.score_all(answered) == [1.0, 0.0, 0.0]
        assert scored.parts == {
            "my_rewards:two": [1.0, 0.0, 0.0],
            "my_rewards:polite": [0.0, 0.5, 0.0],
            "my_rewards:named": [0.5, 0.0, 0.0],
        }
        assert vars(rewards.unscored) == {"timeouts": 0, "crashes": 0, "failures": 1}
        second = scored.part(1, 2)
        assert (second.totals, second.parts["my_rewards:polite"]) == (pytest.approx([0.1]), [0.5])
        assert [[(part.value, part.said) for part in of_one] for of_one in scored.rewards] == [
            [(1.0, None), (0.0, None), (0.5, None)],
            [(0.0, None), (0.5, None), (0.0, None)],
            [(0.0, None), (0.0, None), (0.0, "it failed: KeyError: 'lost'")],
        ]
        assert [(part.name, part.weight) for part in second.rewards[0]] == [*task.rewards.items()]
    with WeightedRewards(TaskOptions(reward="my_rewards:two")) as rewards:
        alone = rewards.score_weighted(answered)
        assert (alone.totals, alone.solving, alone.parts) == ([1.0, 0.0, 0.0], [1.0, 0.0, 0.0], {})


def test_a_reward_may_say_why() -> None:
    with Verifier("my_rewards:wordy", children=1) as verifier:
        short, long = verifier.judge_all([("ab", PROBLEM), ("abc", PROBLEM)])
        assert (short.value, short.said) == (0.5, "two lines, ?")
        assert long.value == 0.75 and long.said == "abc" * (MAX_SAID // 3) + "abc"[: MAX_SAID % 3] + "..."
        assert verifier.score_all([("ab", PROBLEM)]) == [0.5]


def test_answers_are_given_to_the_check_of_a_reward_before_anything_is_scored() -> None:
    with WeightedRewards(TaskOptions(rewards={"my_rewards:two": 1.0, "my_rewards:picky": 0.5})) as rewards:
        rewards.check_answers([PROBLEM])
        with pytest.raises(BadInputError, match=r"^task\.jsonl, line 4: ValueError: abc is too long, so the reward"):
            rewards.check_answers([PROBLEM, Problem(PROMPT, "abc", place="task.jsonl, line 4")])


@pytest.mark.parametrize(
    ("reward", "good", "bad"),
    [
        ("regex", r"\d+", "("),
        ("json_schema", '{"type": "object"}', '{"type": "nothing"}'),
        ("unit_tests", "assert f(1) == 1", "assert f(1) =="),
    ],
)
def test_built_in_rewards_refuse_answers_that_they_cannot_use(reward: str, good: str, bad: str) -> None:
    with Verifier(reward, children=1) as verifier:
        verifier.check_answers([Problem(PROMPT, good)])
        with pytest.raises(BadInputError, match=r"^task\.jsonl, line 9: .* so the reward '.*' could not judge by it"):
            verifier.check_answers([Problem(PROMPT, good), Problem(PROMPT, bad, place="task.jsonl, line 9")])


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, {"numeric": 1.0}),
        ({"path": Path("openai/gsm8k")}, {"numeric": 1.0}),
        ({"path": Path("nobody-has-a-scorer:x")}, {"numeric": 1.0}),
        ({"path": Path("exact:x")}, {"exact": 1.0}),
        ({"path": Path("exact:x"), "reward": "regex"}, {"regex": 1.0}),
        ({"rewards": {"exact": 2.0, "regex": 0.0}}, {"exact": 2.0, "regex": 0.0}),
    ],
)
def test_the_default_reward_is_the_scorer_of_the_source(options: dict[str, Any], weights: dict[str, float]) -> None:
    assert weights_of(TaskOptions(**options)) == weights


def test_two_ways_to_name_rewards_and_weights_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="reward = 'exact' has no meaning beside rewards"):
        TaskOptions(reward="exact", rewards={"regex": 1.0})
    with pytest.raises(ValueError, match="no weight other than 0"):
        TaskOptions(rewards={"regex": 0.0})
