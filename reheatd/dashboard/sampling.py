"""What a form says about how versions are asked: which ones, how hot, how long, and how the answers are coloured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from reheatd.adapters.store import AdapterStore
from reheatd.dashboard.tokens import Colour
from reheatd.dashboard.version_facts import exists
from reheatd.errors import BadInputError, NotFoundError
from reheatd.names import ALIAS_NAME, parse_version, version_name

MOST_TOKENS = 1024
"""Longest answer on a page; each token is an element of it."""
HOTTEST = 2.0


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled and shown."""

    temperature: float
    max_tokens: int
    colour: Colour

    @classmethod
    def of(cls, form: Mapping[str, str]) -> "Sampling":
        """What a form asks for.

        Raises:
            BadInputError: A value is no number, or out of range; `param` names the field.
        """
        return cls(
            temperature=_number(form.get("temperature", DEFAULTS["temperature"])),
            max_tokens=_count(form.get("max_tokens", DEFAULTS["max_tokens"]), "max_tokens", MOST_TOKENS),
            colour=_colour(form.get("colour", DEFAULTS["colour"])),
        )


DEFAULTS = {"temperature": "1", "max_tokens": "200", "colour": "entropy"}
"""What an empty form says."""


def model_of(versions: AdapterStore, text: str) -> str:
    """The name by which the gateway knows what a form's field names: the alias or a version.

    Raises:
        BadInputError: The text is neither.
        NotFoundError: The version does not exist, perhaps not any more.
    """
    if text == ALIAS_NAME:
        return text
    version = parse_version(text)
    if not exists(versions, version):
        raise NotFoundError(
            f"{version_name(version)} does not exist; it was deleted, or there never was one", param="version"
        )
    return version_name(version)


def count(form: Mapping[str, str], name: str, most: int, default: int) -> int:
    """A whole number from 0 to `most`.

    Raises:
        BadInputError: It is none; `param` names the field.
    """
    return _count(form.get(name, str(default)), name, most, least=0)


def _count(text: str, name: str, most: int, least: int = 1) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise BadInputError(f"{name} = {text[:40]!r} is not a whole number from {least} to {most}", param=name)
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= HOTTEST:  # NaN is not either
        raise BadInputError(
            f"temperature = {text[:40]!r} is not a number from 0 to {HOTTEST:g}; 0 always takes the likeliest token",
            param="temperature",
        )
    return value


def _colour(text: str) -> Colour:
    if text not in get_args(Colour):
        raise BadInputError(f"colour = {text[:40]!r} is neither entropy nor logprob", param="colour")
    return cast(Colour, text)
