"""`reheatd explain`: says what an error code means and what to do about it."""

import textwrap
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from cli import render


@render.json_or_text
def explain(
    code: Annotated[str | None, typer.Argument(metavar="CODE", help="Error code; default: list all.")] = None,
) -> render.JsonThenText:
    """Say what an error code means and what to do about it.

    The daemon's answers have the code in `error.code`, and so have those of every command with `--json`.
    """
    from cli.error_codes import error_code, error_codes  # which imports the whole daemon

    if code is None:
        every = error_codes()
        yield [asdict(each) for each in every]
        table = render.table("code", "#HTTP", "#exit", "meaning")
        for each in every:
            table.add_row(each.code, str(each.status), str(each.exit_code), escape(" ".join(each.meaning)))
        render.console.print(table)
        return
    asked = error_code(code)
    yield asdict(asked)
    facts = f"HTTP status {asked.status}, exit code {asked.exit_code}"
    paragraphs = [f"{asked.code}: {' '.join(asked.meaning)} ({facts})", asked.way_out]
    width = min(render.console.width, 100)
    text = "\n\n".join(textwrap.fill(each, width, break_on_hyphens=False) for each in paragraphs)
    render.console.print(text, markup=False, highlight=False)
