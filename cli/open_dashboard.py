"""`reheatd open`: opens the daemon's dashboard."""

import os
import sys
import webbrowser

from rich.markup import escape

from cli import render
from cli.client import DaemonClient
from cli.options import DEFAULT_URL, UrlOption


@render.json_or_text
def open_dashboard(url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Open the dashboard in the browser; where there is none, print its address."""
    client = DaemonClient(url)
    client.health()  # fails with advice if there is no daemon
    address = f"{client.url}/"
    opened = has_screen() and webbrowser.open(address)
    yield {"url": address, "opened": opened}
    render.console.print(f"opened {escape(address)}" if opened else escape(address), soft_wrap=True)


def has_screen() -> bool:
    """Whether a browser could show itself. One for the terminal could not show the dashboard, which needs scripts."""
    if os.environ.get("BROWSER") or sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
