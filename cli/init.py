"""`reheatd init`: writes a commented configuration file with every key at its default."""

import json
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

from cli.options import JsonOption
from cli.render import console, print_json
from reheatd.config import DEFAULT_CONFIG_FILE, Settings
from reheatd.errors import BadInputError, ConflictError
from reheatd.files import write_atomically
from reheatd.options import Options

HEADER = """\
# Settings of reheatd. Every key is here with its default. To change a key, remove the `# ` before it.
# A key without a value is unset.
# Environment variables (REHEATD_SERVER__PORT=8001) win over this file, and command-line options win over both.
"""


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path(DEFAULT_CONFIG_FILE),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a commented reheatd.toml."""
    if not path.name or path.is_dir():
        raise BadInputError(f"{path} is a folder; name the file to write", param="path")
    if path.exists() and not force:
        raise ConflictError(f"{path} exists already; --force overwrites it")
    write_atomically(path, configuration_text().encode())
    if json_output:
        print_json({"file": str(path)})
    else:
        console.print(f"wrote {escape(str(path))}; `reheatd serve` reads it")


def configuration_text() -> str:
    """The text of the file, with every setting as a commented TOML line under its description."""
    lines = [HEADER]
    sections: list[tuple[str, type[Options]]] = []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Options):
            sections.append((name, field.annotation))
        else:
            lines += _entry(name, field)
    for name, section in sections:
        lines += [f"\n[{name}]"]
        for key, field in section.model_fields.items():
            lines += _entry(key, field)
    return "\n".join(lines) + "\n"


def _entry(key: str, field: FieldInfo) -> list[str]:
    comment = textwrap.wrap(field.description or "", width=110, initial_indent="# ", subsequent_indent="# ")
    if field.default is None:
        return [*comment, f"# {key} ="]
    return [*comment, f"# {key} = {_toml(field.default)}"]


def _toml(value: Any) -> str:
    # JSON's booleans, numbers, strings and lists are valid TOML.
    return json.dumps(str(value) if isinstance(value, Path) else value)
