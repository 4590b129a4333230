"""Options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

from cli.completion import complete_job, complete_version
from reheatd.access.client import DEFAULT_URL, URL_ENV

__all__ = ["DEFAULT_URL"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON, even for errors.")]
UrlOption = Annotated[str, typer.Option("--url", envvar=URL_ENV, help="Address of the daemon.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file; default: reheatd.toml here, if there is one.")
]
VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="E.g. 3 or policy-v3.", autocompletion=complete_version)
]
JobArgument = Annotated[
    str,
    typer.Argument(metavar="JOB", help="Id of the job, as `reheatd jobs list` shows it.", autocompletion=complete_job),
]
WaitOption = Annotated[bool, typer.Option("--wait", help="Follow the job to its end, and fail if the job fails.")]
