"""`reheatd adapters import | export | delete | prune`: versions that come from elsewhere, go elsewhere, or go away."""

import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli import render
from cli.client import DaemonClient
from cli.jobs import show_submitted
from cli.options import DEFAULT_URL, JsonOption, UrlOption, VersionArgument, WaitOption
from reheatd.adapters.lineage import Lineage
from reheatd.adapters.validate import base_digest
from reheatd.errors import AdapterInvalidError, BadInputError, ConflictError
from reheatd.names import parse_version, version_name
from reheatd.process.children import python_module


def import_adapter(
    path: Annotated[Path, typer.Argument(help="Folder of a PEFT adapter, or its .tar or .tar.gz.")],
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Accept an adapter that names another base model; its shapes must fit.")
    ] = False,
    wait: WaitOption = False,
    url: UrlOption = DEFAULT_URL,
    json_output: JsonOption = False,
) -> None:
    """Import an adapter of another trainer: PEFT, TRL, Unsloth, verl or prime-rl.

    A worker measures it, and it becomes a candidate; `reheatd adapters promote` serves it.
    """
    client = DaemonClient(url)
    job = client.import_adapter(path, any_base=any_base)
    show_submitted(client, job, wait=wait, json_output=json_output)


@render.json_or_text
def export_adapter(
    version: VersionArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; it must not exist.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Write a full checkpoint: the base with the update folded in.")
    ] = False,
    base: Annotated[
        Path | None, typer.Option("--base", help="Folder of the base for --merged; default: the one the daemon serves.")
    ] = None,
    push: Annotated[str | None, typer.Option("--push", metavar="REPO", help="Also upload it to this hub repo.")] = None,
    url: UrlOption = DEFAULT_URL,
) -> render.JsonThenText:
    """Write a version's files, as PEFT, TRL and vLLM load them."""
    number = parse_version(version)
    if out.exists():
        raise ConflictError(f"{out} exists already; name a new folder", param="OUT")
    if base is not None and not merged:
        raise BadInputError("--base is the base for --merged; give both or neither", param="--base")
    client = DaemonClient(url)
    if merged:
        source = _base_folder(base, client.adapter(number).lineage)
        with tempfile.TemporaryDirectory() as scratch:
            adapter = Path(scratch) / "adapter"
            client.export_adapter(number, adapter)
            merge_adapter(source, adapter, out.resolve())
    else:
        client.export_adapter(number, out)
    if push is not None:
        _push(out, push)
    yield {"version": number, "folder": str(out.resolve()), "merged": merged, "pushed": push}
    what = "merged checkpoint" if merged else "adapter"
    render.console.print(
        f"{version_name(number)}: {what} in {escape(str(out))}" + (f", uploaded to {escape(push)}" if push else "")
    )


@render.json_or_text
def delete_adapter(version: VersionArgument, url: UrlOption = DEFAULT_URL) -> render.JsonThenText:
    """Delete a version that is not served."""
    number = parse_version(version)
    yield DaemonClient(url).delete_adapter(number).model_dump(mode="json")
    render.console.print(f"{version_name(number)} is deleted")


@render.json_or_text
def prune_adapters(
    keep: Annotated[int, typer.Option("--keep", min=0, help="Number of the newest versions that stay.")],
    url: UrlOption = DEFAULT_URL,
) -> render.JsonThenText:
    """Delete old versions, oldest first.

    The promoted version, the one that a rollback would serve, and versions that are loaded or in use always stay.
    """
    view = DaemonClient(url).prune(keep)
    yield view.model_dump(mode="json")
    names = ", ".join(version_name(version) for version in view.deleted)
    render.console.print(f"deleted {names}" if names else "nothing to delete")


def _base_folder(given: Path | None, lineage: Lineage | None) -> Path:
    """The folder of the version's base on this machine.

    Raises:
        BadInputError: It is not here, or it is another model.
    """
    if lineage is None:
        raise ConflictError("the base and lost versions have no adapter; name another version", param="version")
    folder = given or Path(str(lineage.spec.get("model_path", "")))
    try:
        digest = base_digest(folder)
    except OSError as error:
        raise BadInputError(
            f"the base {lineage.base_model} is not at {folder} on this machine; name its folder with --base",
            param="--base",
        ) from error
    if digest != lineage.base_digest:
        raise BadInputError(f"{folder} is not the base {lineage.base_model} of this version; name it with --base")
    return folder


def merge_adapter(base: Path, adapter: Path, target: Path) -> None:
    # A child process does this, because it needs torch, which the command line never imports.
    done = subprocess.run(
        python_module("workers.merge", str(base), str(adapter), str(target)), capture_output=True, text=True
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise AdapterInvalidError(f"merging failed: {last[0]}; is the worker extra installed?")


def _push(folder: Path, repo: str) -> None:
    """Uploads a folder to the hub.

    Raises:
        BadInputError: The hub cannot be reached or refuses; the files stay where they are.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        hub = HfApi()
        hub.create_repo(repo, exist_ok=True, private=True)
        hub.upload_folder(repo_id=repo, folder_path=folder)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInputError(
            f"{folder} is written, but {repo} did not take it ({reason}); check the name, and log in with "
            "`hf auth login`",
            param="--push",
        ) from error
