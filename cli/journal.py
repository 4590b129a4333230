"""`reheatd journal`: reads what the daemon decided and what people asked of it."""

import time
from typing import Annotated

import typer
from rich.markup import escape

from cli import render
from cli.client import DaemonClient
from cli.completion import complete_job
from cli.options import DEFAULT_URL, UrlOption
from reheatd.control.journal import JournalEntry
from reheatd.names import version_name


@render.json_or_text
def journal(
    last: Annotated[int, typer.Option(min=1, max=100_000, help="Entries to read, counted from the newest.")] = 50,
    job: Annotated[
        str | None, typer.Option(metavar="JOB", help="Show only entries about this job.", autocompletion=complete_job)
    ] = None,
    url: UrlOption = DEFAULT_URL,
) -> render.JsonThenText:
    """Read the journal: every decision with its reason, every promotion, and who asked for what; the newest last."""
    entries = DaemonClient(url).journal(last=last).entries
    shown = [entry for entry in entries if job in (None, entry.job_id)]
    yield [entry.model_dump(mode="json") for entry in shown]
    if not shown:
        about = "" if job is None else f" about {escape(job)} among the newest {last} entries"
        render.console.print(f"nothing{about} yet")
        return
    rows = render.table("when", "what", "by", "why")
    for entry in shown:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time))
        rows.add_row(when, _what(entry), escape(entry.actor or "the daemon"), escape(entry.reason))
    render.console.print(rows)


def _what(entry: JournalEntry) -> str:
    if entry.event == "transition":
        return f"{entry.from_state} -> {entry.to_state}"
    if entry.event == "promoted":
        return f"{version_name(entry.version or 0)} is live"
    return entry.event
