"""`reheatd worker`: runs a worker in the foreground, on this or another machine."""

import os
from typing import Annotated

import typer

from cli.options import ConfigOption, JsonOption
from reheatd.broker_url import broker_address, parse_broker_url
from reheatd.config import load_settings
from reheatd.errors import BadInputError


def worker(
    broker_url: Annotated[
        str | None, typer.Option(help="Redis URL that the daemon uses; default: broker.url of the configuration.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads for torch; default: its own choice.", min=1)] = None,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Run a worker for the jobs of a daemon that runs elsewhere.

    The daemon's data folder must be reachable here under the same path, and the daemon's gateway at the address in its
    `server.public_url`.
    """
    settings = load_settings(config, {"workers": {"threads": threads}} if threads else {})
    url = settings.broker.full_url if broker_url is None else _without_password(broker_url)
    if url is None:
        raise BadInputError("a worker needs --broker-url redis://host:6379/0, or broker.url in the configuration")
    from reheatd.extras import require_worker_extra
    from reheatd.process.worker_command import worker_command
    from reheatd.tracing.setup import check_tracing

    require_worker_extra()
    check_tracing(settings.tracing)
    command = worker_command(url, settings.workers, settings.tracing, index=os.getpid())
    if not json_output:
        print(f"reheatd: worker for {broker_address(url)}", flush=True)
    os.execve(command.argv[0], command.argv, {**os.environ, **command.env})


def _without_password(text: str) -> str:
    url = parse_broker_url(text)
    if url.password:
        raise BadInputError(
            "--broker-url has a password, which every user of this machine can read in the process list; put the URL "
            "into REHEATD_BROKER__URL or the configuration file",
            param="broker.url",
        )
    return str(url)
