"""Named rewards."""

import pytest

from reheatd.errors import BadInputError
from workers.evaluation import wilson_interval
from workers.rewards import load_reward
from workers.rewards.judged import Judged


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


@pytest.mark.parametrize(
    ("name", "completion", "answer", "said"),
    [
        ("numeric", "It is 6.", "5", "it states 6"),
        ("numeric", r"First 5, then \boxed{7}", "6", "it states 7"),
        ("numeric", "five apples", "5", "it states no number"),
        ("json_schema", "{", "{}", "it is no JSON: Expecting property name"),
        ("json_schema", "[1]", '{"type": "object"}', "[1] is not of type 'object'"),
    ],
)
def test_a_reward_says_what_it_has_seen(name: str, completion: str, answer: str, said: str) -> None:
    judged = load_reward(name)(completion, answer)
    assert judged == 0.0 and isinstance(judged, Judged) and judged.said.startswith(said)


def test_exact_reward_ignores_case_and_space_only() -> None:
    exact = load_reward("exact")
    assert exact(" Canberra\n", "canberra") == 1.0
    assert exact("Canberra.", "Canberra") == 0.0


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("fuzzy", "use exact, json_schema, numeric, reasoning_gym, regex, unit_tests, verifiers or module"),
        ("no_such_module_anywhere:f", "No module named"),
        ("json:no_such_function", "json has no function no_such_function"),
    ],
)
def test_unusable_reward_names_itself(name: str, part: str) -> None:
    with pytest.raises(BadInputError, match=part) as caught:
        load_reward(name)
    assert name in caught.value.message


def test_wilson_interval_matches_published_values() -> None:
    assert wilson_interval(15, 30, 0.95) == pytest.approx((0.3315, 0.6685), abs=1e-4)
    assert wilson_interval(0, 10, 0.95) == pytest.approx((0.0, 0.2775), abs=1e-4)
