"""Values of settings and options as people read them. What may be a secret is not shown."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from reheatd.broker_url import broker_address
from reheatd.jobs.contracts import ImportSpec, JobBase, JobRequest, ReheatSpec, RLSpec
from reheatd.options import Options, ReheatOptions, RLOptions
from reheatd.validation import SECRET_TABLES

UNSET = "–"
HIDDEN = "set, but not shown"
LONGEST = 400
SECRET_NAME = re.compile(r"(key|token|secret|password|passwd|credentials?|authorization)$", re.IGNORECASE)
"""Names of arguments whose values may be secrets, by their ends."""
CREDENTIALS = re.compile(r"(:/{1,2})\S*@")
"""Those of a URL; a path has but one slash."""
SECRET_IN_QUERY = re.compile(r"([?&][^=&\s]*(?:key|token|secret|password|signature|sig)=)[^&\s]*", re.IGNORECASE)


@dataclass(frozen=True)
class Option:
    """An option of a job with its value."""

    name: str
    value: str
    description: str
    given: bool
    """Whether the request for the job gave it."""


def shown(value: Any) -> str:
    """A value in one line."""
    if value is None or value in ([], {}):
        return UNSET
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        text = " ".join(_arguments(value))
    elif isinstance(value, Mapping | list | tuple):
        text = json.dumps(_without_secrets(value), ensure_ascii=False, default=str)
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    text = SECRET_IN_QUERY.sub(r"\1...", CREDENTIALS.sub(r"\1...@", text))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def setting(table: str, key: str, field: FieldInfo, value: Any) -> str:
    """The value of a setting in one line.

    Args:
        table: Empty for a setting outside of the tables.
    """
    if value is None or (table not in SECRET_TABLES and field.repr):
        return shown(value)
    if table == "broker" and key == "url":
        return broker_address(value)
    parts = urlsplit(str(value))
    return f"{parts.scheme}://{parts.hostname}/..." if parts.scheme and parts.hostname else HIDDEN


def spec_tables(spec: JobBase, request: JobRequest) -> list[tuple[str, list[Option]]]:
    """The specification of a job as tables with names: its own options first, then what it was made in."""
    own: type[Options] | None = {ReheatSpec: ReheatOptions, RLSpec: RLOptions, ImportSpec: None}[type(spec)]
    options = () if own is None else tuple(own.model_fields)
    given = request.model_fields_set
    rest: list[Option] = []
    tables: list[tuple[str, list[Option]]] = []
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, Options):
            tables.append(
                (name, [_option(key, each, getattr(value, key)) for key, each in type(value).model_fields.items()])
            )
        elif name not in options:
            rest.append(_option(name, field, value, name in given))
    fields = type(spec).model_fields
    asked = [_option(name, fields[name], getattr(spec, name), name in given) for name in options]
    return [*([(request.kind, asked)] if asked else []), *tables, ("job", rest)]


def _option(name: str, field: FieldInfo, value: Any, given: bool = False) -> Option:
    return Option(name, shown(value), field.description or "", given)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if SECRET_NAME.search(str(key)) and each is not None else _without_secrets(each)
            for key, each in value.items()
        }
    return [_without_secrets(each) for each in value] if isinstance(value, list | tuple) else value


def _arguments(values: Sequence[str]) -> list[str]:
    """Texts of a list, which may be arguments of a command, without what follows the name of a secret."""
    found: list[str] = []
    is_secret = False
    for value in values:
        name, equals, _ = value.partition("=")
        if is_secret:
            found.append("...")
        elif equals and SECRET_NAME.search(name):
            found.append(f"{name}=...")
        else:
            found.append(value)
        is_secret = value.startswith("-") and not equals and SECRET_NAME.search(name) is not None
    return found
