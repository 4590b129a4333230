"""Reward 1 for a completion that is a JSON document of the wanted shape."""

import json

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from workers.rewards.calling import checked_by
from workers.rewards.fenced import last_block
from workers.rewards.judged import Judged
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
    except ValueError as error:
        return Judged(0.0, f"it is no JSON: {error}")
    fault = best_match(Draft202012Validator(schema).iter_errors(document))
    return 1.0 if fault is None else Judged(0.0, fault.message)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
