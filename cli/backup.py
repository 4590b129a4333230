"""`reheatd backup` and `reheatd restore`: the daemon's data folder as one file, taken while the daemon serves."""

from pathlib import Path
from typing import Annotated

import typer

from cli import render
from cli.options import ConfigOption
from reheatd.config import load_settings
from reheatd.names import version_name

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The back-up, a tar file.")]
DataDirOption = Annotated[
    Path | None, typer.Option(help="The daemon's data folder; default: that of the configuration.")
]


@render.json_or_text
def backup(file: FileArgument, data_dir: DataDirOption = None, config: ConfigOption = None) -> render.JsonThenText:
    """Back up state, adapters and series to FILE, also while the daemon serves.

    The file appears once it is complete. It is readable for its owner only.
    """
    from reheatd.backup import back_up

    manifest = back_up(data_dir or load_settings(config).data_dir, file)
    size = file.stat().st_size
    yield {"file": str(file), "bytes": size, "versions": manifest.versions, "promoted": manifest.promoted}
    render.console.print(
        f"{file}: {size / 1e6:.1f} MB, {len(manifest.versions)} versions, {version_name(manifest.promoted)} is promoted"
    )


@render.json_or_text
def restore(
    file: FileArgument,
    data_dir: Annotated[Path, typer.Option(help="Folder to restore to; it must be new or empty.")],
) -> render.JsonThenText:
    """Restore a back-up to a new data folder; `reheatd serve --data-dir` then goes on from there."""
    from reheatd.backup import restore as restore_to

    manifest = restore_to(file, data_dir)
    yield {"data_dir": str(data_dir), "versions": manifest.versions, "promoted": manifest.promoted}
    render.console.print(
        f"{data_dir}: {len(manifest.versions)} versions, {version_name(manifest.promoted)} is promoted; "
        f"`reheatd serve --data-dir {data_dir}` goes on from there"
    )
