"""Built-in rewards judge what a thinking model says, and not what it thinks."""

import pytest

from workers.rewards import load_reward

THOUGHT = "<think>\nMaybe 3? {{}} No: 4, or \\boxed{9}.\n```python\ndef f():\n    return 3\n```\n</think>\n\n"


@pytest.mark.parametrize(
    ("reward", "answer", "right", "wrong"),
    [
        ("numeric", "5", "It is 5.", "I do not know."),
        ("numeric", "9", r"So \boxed{9}.", r"So \boxed{5}."),
        ("exact", "five", "Five", "Six"),
        ("regex", r"\A5", "5 it is", "it is 5"),
        ("json_schema", '{"type": "object"}', '{"a": 1}', "[1]"),
        ("unit_tests", "assert f() == 3", "def f():\n    return 3\n", "def f():\n    return 4\n"),
    ],
)
def test_what_follows_the_last_thought_counts(reward: str, answer: str, right: str, wrong: str) -> None:
    judge = load_reward(reward)
    for thoughts in (THOUGHT, THOUGHT.removeprefix("<think>\n"), THOUGHT + "Again." + THOUGHT):
        assert (judge(thoughts + right, answer), judge(thoughts + wrong, answer)) == (1.0, 0.0)


def test_a_completion_without_the_end_of_a_thought_is_judged_whole() -> None:
    assert load_reward("numeric")("<think> 2 + 3 is 5", "5") == 1.0


def test_code_goes_on_with_its_prompt_after_a_thought() -> None:
    record = {"entry_point": "f", "prompt": 'def f():\n    """Three."""\n'}
    assert load_reward("unit_tests")(f"{THOUGHT}    return 3\n", "assert f() == 3", record) == 1.0
