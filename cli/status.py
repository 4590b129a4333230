"""`reheatd status`: shows what the daemon serves and does."""

from typing import Annotated

import typer

from cli import render
from cli.client import DaemonClient
from cli.options import DEFAULT_URL, JsonOption, UrlOption
from cli.status_facts import status_facts
from cli.status_watch import print_changes, print_objects, watch_screen
from reheatd.api.schemas import StatusView


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing the status until Ctrl-C.")] = False,
    url: UrlOption = DEFAULT_URL,
    json_output: JsonOption = False,
) -> None:
    """Show the state, the version, its entropy against the baseline, the running job and the health of the parts.

    `--watch` fills the terminal. In a pipe it prints a line whenever something has changed and, with `--json`, one
    object per second. It outlives a daemon that goes away and comes back.
    """
    client = DaemonClient(url)
    first = client.status()
    if not watch:
        _print_once(first, json_output=json_output)
        return
    try:
        if json_output:
            print_objects(client)
        elif render.console.is_terminal:
            watch_screen(client, first)
        else:
            print_changes(client)
    except KeyboardInterrupt:
        return  # the way to leave


@render.json_or_text
def _print_once(status: StatusView) -> render.JsonThenText:
    yield status.model_dump(mode="json")
    render.console.print(status_facts(status))
