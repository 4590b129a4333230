"""The page about commands: what `--help` says of each of them."""

import inspect
from typing import Any

import typer

from cli.main import app
from docsite.markdown import code, page, table

INTRODUCTION = """\
Commands that ask a daemon find it at `--url` or `REHEATD_URL`, and send the API key in `REHEATD_API_KEY`. With `--json`
they print nothing but JSON, even for errors. Exit codes: 0 all is well, 1 something failed, 2 bad input or
something that is needed is missing, 130 stopped by Ctrl-C. Commands with further codes say so."""


def commands_page() -> str:
    """The page, in Markdown."""
    root: Any = typer.main.get_command(app)
    parts: list[str] = []
    for name, command in sorted(root.commands.items()):
        parts += _described(f"reheatd {name}", command)
    return page("Commands", INTRODUCTION, *parts)


def _described(path: str, command: Any, level: int = 2) -> list[str]:
    """The parts of a command and of those below it."""
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
    rows = [(code(name), help_) for name, help_ in records if name != "--help"]
    below = getattr(command, "commands", {})
    parts = [f"{'#' * level} {path}", inspect.cleandoc(command.help or "")]
    if not below or getattr(command, "invoke_without_command", False):
        parts += [f"```text\n{usage}\n```", table(("option", "what it is"), rows)]
    for name, child in sorted(below.items()):
        parts += _described(f"{path} {name}", child, level + 1)
    return parts
