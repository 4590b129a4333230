"""Options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8000"

JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON, even for errors.")]
UrlOption = Annotated[str, typer.Option("--url", envvar="REHEATD_URL", help="Address of the daemon.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file; default: reheatd.toml here, if there is one.")
]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="E.g. 3 or policy-v3.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Follow the job to its end, and fail if the job fails.")]
