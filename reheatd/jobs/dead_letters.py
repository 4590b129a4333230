"""Messages that no worker could handle: kept in a list in Redis, so that a person sees what was lost and why."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from pydantic import Field, ValidationError

from reheatd.jobs.keys import DEAD_LETTERS_KEY
from reheatd.measures import Contract

if TYPE_CHECKING:  # a client of the API reads letters without a broker
    from redis import Redis

KEPT = 100
"""Number of dead letters that are kept; older ones are dropped."""
MAX_CHARACTERS = 300
"""Longest reason and longest name that are kept."""


class DeadLetter(Contract):
    """A message that was taken out of the workers' queue without being run."""

    time: float = Field(default_factory=time.time)
    """Seconds since the epoch."""
    worker: str
    """Name of the worker that gave it up."""
    message_id: str
    """Celery's id of the task, e.g. `reheat-1a2b3c4d.1`; empty if the message has none."""
    task: str
    """Name of the task; empty if the message has none."""
    reason: str
    """One line."""


def bury(redis: "Redis", *, worker: str, message_id: object, task: object, reason: str) -> None:
    """Puts a message on the list of dead letters.

    Args:
        message_id: What stands for an id in the message, which may be anything.
        task: What stands for the name of a task.
    """
    letter = DeadLetter(worker=worker, message_id=_short(message_id), task=_short(task), reason=_short(reason))
    with redis.pipeline() as together:
        together.lpush(DEAD_LETTERS_KEY, letter.model_dump_json())
        together.ltrim(DEAD_LETTERS_KEY, 0, KEPT - 1)
        together.execute()


def read_dead_letters(entries: Iterable[str]) -> list[DeadLetter]:
    """The letters in the entries of the list. What a worker of another version of reheatd wrote is shown as it is."""
    return [_read(entry) for entry in entries]


def _read(entry: str) -> DeadLetter:
    try:
        return DeadLetter.model_validate_json(entry)
    except ValidationError:
        return DeadLetter(time=0.0, worker="", message_id="", task="", reason=_short(entry))


def _short(value: object) -> str:
    text = " ".join(cast(str, value if isinstance(value, str) else "" if value is None else repr(value)).split())
    return text[:MAX_CHARACTERS]
