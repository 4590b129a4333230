"""The page about settings: every key with its default, what it may be and what it means."""

import json
from pathlib import Path
from typing import Any

from docsite.markdown import code, page, table
from docsite.schemas import in_words
from reheatd.config import Settings
from reheatd.options import Options

INTRODUCTION = """\
Settings come from a TOML file (`reheatd.toml`, or `--config`), from environment variables and from options of the
command line; the later ones win. `reheatd init` writes a file with every key. The variable of `server.port` is
`REHEATD_SERVER__PORT`; lists and tables are JSON there. An unknown key or an unusable value stops the start with a
message that names it."""


def settings_page() -> str:
    """The page, in Markdown."""
    parts: list[str] = []
    single: list[tuple[str, str, str, str]] = []
    schema = Settings.model_json_schema()
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Options):
            parts.append(f"## {name}\n\n{_table(kind)}")
        else:
            single.append(_row(name, field.default, schema["properties"][name], field.description))
    return page("Settings", INTRODUCTION, table(("key", "default", "values", "what it is"), single), *parts)


def _table(options: type[Options]) -> str:
    schemas = options.model_json_schema()["properties"]
    rows = [_row(key, field.default, schemas[key], field.description) for key, field in options.model_fields.items()]
    return table(("key", "default", "values", "what it is"), rows)


def _row(key: str, default: Any, schema: dict[str, Any], description: str | None) -> tuple[str, str, str, str]:
    value = json.dumps(str(default) if isinstance(default, Path) else default)
    values = " or ".join(part for part in in_words(schema).split(" or ") if part != "nothing")
    return code(key), "unset" if default is None else code(value), values, description or ""
