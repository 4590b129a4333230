"""Reward 1 for a completion that is a JSON document of the wanted shape."""

import json

from jsonschema import Draft202012Validator

from workers.rewards.calling import checked_by
from workers.rewards.fenced import last_block
from workers.rewards.thinking import said


def _check(answer: str) -> None:
    Draft202012Validator.check_schema(json.loads(answer))


@checked_by(_check)
def json_schema(completion: str, answer: str) -> float:
    """Whether `completion`, or its last fenced block, is JSON that is valid under the schema `answer` (2020-12).

    Raises:
        ValueError: `answer` is not JSON.
        jsonschema.SchemaError: `answer` is not a schema.
    """
    schema = json.loads(answer)
    Draft202012Validator.check_schema(schema)
    try:
        document = json.loads(last_block(said(completion)), parse_constant=_refuse)
    except ValueError:
        return 0.0
    return float(Draft202012Validator(schema).is_valid(document))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
