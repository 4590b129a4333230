"""The built-in rewards, and rewards that other distributions install."""

from pathlib import Path

import pytest

from reheatd.errors import BadInputError
from workers.rewards import load_reward

SCHEMA = '{"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}'


@pytest.mark.parametrize(
    ("completion", "pattern", "reward"),
    [
        ("The answer is 42.", r"\b42\b", 1.0),
        ("The answer is 421.", r"\b42\b", 0.0),
        ("first\nsecond", r"^second$", 0.0),
        ("first\nsecond", r"(?m)^second$", 1.0),
        ("yes, no", r"\Ayes\Z", 0.0),
        ("yes", r"\Ayes\Z", 1.0),
    ],
)
def test_regex_reward(completion: str, pattern: str, reward: float) -> None:
    assert load_reward("regex")(completion, pattern) == reward


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ('{"sum": 5}', 1.0),
        ('Here it is:\n```json\n{"sum": 5}\n```\nDone.', 1.0),
        ('```json\n{"sum": "x"}\n```\nor rather\n```\n{"sum": 5}\n```', 1.0),
        ('{"sum": "5"}', 0.0),
        ('{"total": 5}', 0.0),
        ('{"sum": 5', 0.0),
        ('{"sum": 5} indeed', 0.0),
        ('{"sum": NaN}', 0.0),
        ("5", 0.0),
        ("", 0.0),
    ],
)
def test_json_schema_reward(completion: str, reward: float) -> None:
    assert load_reward("json_schema")(completion, SCHEMA) == reward


@pytest.mark.parametrize("schema", ["{", '{"type": "nothing"}'])
def test_json_schema_reward_raises_on_what_is_no_schema(schema: str) -> None:
    with pytest.raises(Exception, match=r"Expecting|nothing"):
        load_reward("json_schema")("{}", schema)


def test_rewards_of_other_distributions_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_rewards.py").write_text("def shortest(completion, answer):\n    return 1 / len(completion)\n")
    metadata = tmp_path / "their_rewards-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rewards\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[reheatd.rewards]\nshortest = their_rewards:shortest\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_reward("shortest")("four", "") == 0.25
    with pytest.raises(
        BadInputError, match="use exact, json_schema, numeric, reasoning_gym, regex, shortest, unit_tests, verif"
    ):
        load_reward("longest")
