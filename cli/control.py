"""`reheatd control`: says that somebody has looked at what the daemon stopped doing by itself."""

import typer
from rich.markup import escape

from cli import render
from cli.client import DaemonClient
from cli.options import DEFAULT_URL, UrlOption

app = typer.Typer(help="Let the control loop go on after it has paused.", no_args_is_help=True)


@app.callback()
def control() -> None:
    """Let the control loop go on after it has paused."""


@app.command()
@render.json_or_text
def resume(url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Let the daemon start again what it has paused because it failed twice in the same way."""
    view = DaemonClient(url).resume()
    yield view.model_dump(mode="json")
    for pause in view.resumed:
        render.console.print(f"{pause.what} go on; they were paused because {escape(pause.why)}")
    if not view.resumed:
        render.console.print("nothing is paused")
