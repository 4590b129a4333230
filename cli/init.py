"""`reheatd init`: writes a configuration file, either short, with what differs from the defaults, or with every key."""

import json
import os
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

from cli.options import JsonOption
from cli.render import console, print_json
from reheatd.config import DEFAULT_CONFIG_FILE, Settings, load_settings
from reheatd.errors import BadInputError, ConflictError
from reheatd.files import write_atomically
from reheatd.options import Options
from reheatd.process.gpus import visible_gpus

FULL_HEADER = """\
# Settings of reheatd. Every key is here with its default. To change a key, remove the `# ` before it.
# A key without a value is unset.
# Environment variables (REHEATD_SERVER__PORT=8001) win over this file, and command-line options win over both.
"""
SHORT_HEADER = """\
# Settings of reheatd that differ from the defaults. `reheatd init --full all.toml` lists every key.
# Environment variables (REHEATD_SERVER__PORT=8001) win over this file, and command-line options win over both.
"""
Mode = Literal["observe", "approve", "auto"]


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path(DEFAULT_CONFIG_FILE),
    policy: Annotated[str | None, typer.Option(help="Hugging Face id or folder of the model to serve.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="If the policy is an RL checkpoint: the base that it was trained from.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Verifiable problems: a file, a folder, a data set's id, or reasoning_gym:NAME.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="What follows a collapse: nothing, a job that waits for approval, or a job.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port that clients connect to.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Write every key, commented out, and ask nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; what is not given stays at its default.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a short reheatd.toml: what differs from the defaults. In a terminal, it asks for what is not given."""
    if not path.name or path.is_dir():
        raise BadInputError(f"{path} is a folder; name the file to write", param="path")
    if path.exists() and not force:
        raise ConflictError(f"{path} exists already; --force overwrites it")
    given = {
        "policy.model": policy,
        "policy.reference": reference,
        "task.path": task,
        "control.mode": mode,
        "server.port": port,
    }
    if full:
        named = [key for key, value in given.items() if value is not None]
        if named:
            raise BadInputError(f"--full writes every key at its default; leave out {', '.join(named)}", param="full")
        text = full_text()
    else:
        asks = not (yes or json_output) and sys.stdin.isatty() and sys.stdout.isatty()
        text = short_text(_asked(given) if asks else given)
        _check(text)
    write_atomically(path, text.encode())
    if json_output:
        print_json({"file": str(path)})
    else:
        config = "" if path == Path(DEFAULT_CONFIG_FILE) else f" --config {escape(str(path))}"
        console.print(
            f"wrote {escape(str(path))}; `reheatd doctor{config}` checks it, and `reheatd serve{config}` reads it"
        )


def short_text(given: dict[str, Any]) -> str:
    """The text of a file with the values that differ from the defaults.

    Args:
        given: Values by key, e.g. `policy.model`; None means the default.
    """
    tables: dict[str, list[str]] = {}
    for key, value in given.items():
        table, _, name = key.partition(".")
        default = Settings.model_fields[table].get_default().model_dump(mode="json")[name]
        if value is not None and value != default:
            tables.setdefault(table, []).append(f"{name} = {_toml(value)}")
    lines = [SHORT_HEADER + f"# On this machine: {machine()}"]
    for table, entries in tables.items():
        lines += ["", f"[{table}]", *entries]
    if not tables:
        lines += ["", "# Everything is at its default."]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """What engines and workers run on, in one line."""
    gpus = visible_gpus()
    if gpus:
        return f"{'; '.join(gpu.name for gpu in gpus)}. `reheatd plan` says what fits."
    return f"no GPU, {len(os.sched_getaffinity(0))} cores; engine and worker run on the CPU."


def full_text() -> str:
    """The text of the file with every setting as a commented TOML line under its description."""
    lines = [FULL_HEADER]
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


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, and for the rest what the user answers; an empty answer means the default."""
    console.print(f"[dim]{escape(machine())} Return takes the default.[/]")
    questions = {
        "policy.model": "Model to serve: Hugging Face id or folder (the small built-in one)",
        "policy.reference": "If it is an RL checkpoint, the base that it was trained from (none)",
        "task.path": "Verifiable problems: file, folder, data set's id or reasoning_gym:NAME (the bundled arithmetic)",
        "control.mode": "What follows a collapse: observe, approve or auto (auto)",
    }
    answers = dict(given)
    for key, question in questions.items():
        if answers[key] is None:
            answers[key] = typer.prompt(question, default="", show_default=False).strip() or None
    return answers


def _check(text: str) -> None:
    """Checks that the daemon would read the file.

    Raises:
        ConfigError: It would not; the message names the key.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, DEFAULT_CONFIG_FILE)
        file.write_text(text, "utf-8")
        load_settings(file)


def _entry(key: str, field: FieldInfo) -> list[str]:
    comment = textwrap.wrap(field.description or "", width=110, initial_indent="# ", subsequent_indent="# ")
    if field.default is None:
        return [*comment, f"# {key} ="]
    return [*comment, f"# {key} = {_toml(field.default)}"]


def _toml(value: Any) -> str:
    # JSON's booleans, numbers, strings and lists are valid TOML.
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
