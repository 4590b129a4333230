"""`reheatd serve`: runs the daemon in the foreground."""

from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from cli.options import ConfigOption, JsonOption
from cli.render import print_json
from reheatd.config import load_settings


def serve(
    config: ConfigOption = None,
    model: Annotated[str | None, typer.Option(help="Hugging Face model id or local folder.")] = None,
    reference: Annotated[str | None, typer.Option(help="The base that the model was trained from with RL.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of everything that the daemon keeps.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers to start here; 0 if they run elsewhere.")] = None,
    mode: Annotated[str | None, typer.Option(help="What follows a collapse: observe, approve or auto.")] = None,
    interval: Annotated[float | None, typer.Option(help="Seconds between entropy windows, whatever they cost.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Serve a policy with gateway, engine, broker and workers, until SIGTERM or Ctrl-C.

    Options win over environment variables (`REHEATD_SERVER__PORT=8001`), which win over the configuration file.
    With `--json`, the command prints one object with the daemon's address once it is ready; the log goes to stderr.
    """
    overrides: dict[str, Any] = {}
    if data_dir is not None:
        overrides["data_dir"] = data_dir
    for section, key, value in (
        ("policy", "model", model),
        ("policy", "reference", reference),
        ("server", "host", host),
        ("server", "port", port),
        ("workers", "count", workers),
        ("control", "mode", mode),
        ("entropy", "interval_s", interval),
    ):
        if value is not None:
            overrides.setdefault(section, {})[key] = value
    if interval is not None:
        overrides["entropy"]["max_share"] = 1.0
    settings = load_settings(config, overrides)
    from reheatd.database import disk_explained
    from reheatd.serve import serve as run_daemon

    with disk_explained(settings.data_dir):
        uvloop.run(run_daemon(settings, on_ready=print_json if json_output else None))
