"""Reads a problem from the fields of a record, under the names that data sets in use have for them.

- The prompt: `prompt`, `question` or `problem` (text, or a list of messages as in verl's files), or `messages`.
- The answer: `answer`, `ground_truth`, `reward_model.ground_truth` (verl, DAPO), `test` with `entry_point` (HumanEval),
  `test_list` (MBPP) or `solution`; the first of these that a record has.

`task.columns` names others.
"""

import json
from collections.abc import Mapping
from reprlib import repr as shortened
from typing import Any, Literal

from reheatd.json_lines import PROMPT, Messages, Place, prompt_text, read_messages
from reheatd.tasks.problem import Problem

PROMPT_FIELDS = ("prompt", "question", "problem", "messages")
ANSWER_FIELDS = ("answer", "ground_truth", "reward_model.ground_truth", "test", "test_list", "solution")
EXPECTED = f'{PROMPT}, with "answer"'


def problem_of(place: Place, record: dict[str, Any], columns: Mapping[Literal["prompt", "answer"], str]) -> Problem:
    """The problem that a record states.

    Raises:
        BadInputError: The record has no prompt or no answer, has several prompts, or one of them cannot be used; the
            message names the record's place, the field and the way out.
    """
    messages = _messages(place, record, columns.get("prompt"))
    if messages[-1]["role"] == "assistant":
        raise place.error(
            "the messages end with an answer of the assistant, which the policy would be shown; name the field of the "
            "prompt in task.columns"
        )
    return Problem(messages, _answer(place, record, columns.get("answer")), record, place.where)


def prompt_of(place: Place, record: dict[str, Any]) -> Messages:
    """The prompt of a record that need not have an answer.

    Raises:
        BadInputError: As for `problem_of`.
    """
    return _messages(place, record, None)


def _messages(place: Place, record: dict[str, Any], column: str | None) -> Messages:
    found = {name: _value(record, name) for name in ((column,) if column else PROMPT_FIELDS)}
    found = {name: value for name, value in found.items() if value is not None}
    if not found:
        raise place.error(_missing(record, "prompt", column, PROMPT_FIELDS))
    (name, value), *others = found.items()
    if others:
        names = " and ".join(f'"{name}"' for name in found)
        raise place.error(f'has {names}; name the one to ask in task.columns, e.g. {{prompt = "{name}"}}')
    if name == "messages" or isinstance(value, list):
        return read_messages(place, name, value)
    return [{"role": "user", "content": prompt_text(place, name, value)}]


def _answer(place: Place, record: dict[str, Any], column: str | None) -> str:
    for name in (column,) if column else ANSWER_FIELDS:
        value = _value(record, name)
        if value is None:
            continue
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if name == "test" and record.get("entry_point") is not None:
            return f"{value}\n\ncheck({_entry_point(place, record)})\n"
        if name == "test_list" and isinstance(value, list) and all(isinstance(test, str) for test in value):
            setup = record.get("test_setup_code") or "\n".join(record.get("test_imports") or ())
            return "\n".join([*([setup] if setup else []), *value])
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise place.error(f'"{name}" must be text or a number, got {shortened(value)}')
        return str(value)
    raise place.error(_missing(record, "answer", column, ANSWER_FIELDS))


def _entry_point(place: Place, record: dict[str, Any]) -> str:
    name = record["entry_point"]
    if not isinstance(name, str) or not name.isidentifier():
        raise place.error(f'"entry_point" must be the name of a function, got {shortened(name)}')
    return name


def _value(record: dict[str, Any], name: str) -> Any:
    """The value of a field; a dot leads into an object inside. None if there is none."""
    if name in record:
        return record[name]
    first, dot, rest = name.partition(".")
    inner = record.get(first)
    return _value(inner, rest) if dot and isinstance(inner, dict) else None


def _missing(record: dict[str, Any], what: str, column: str | None, names: tuple[str, ...]) -> str:
    has = ", ".join(json.dumps(name) for name, value in record.items() if value is not None) or "nothing"
    if column:
        return f'has no "{column}", which task.columns names for the {what}; it has {has}'
    listed = ", ".join(f'"{name}"' for name in names)
    return f"has no {what}, which is one of {listed}; it has {has}: name the field in task.columns"
