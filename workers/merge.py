"""Folds an adapter into its base: `python -m workers.merge BASE ADAPTER FOLDER` writes a full checkpoint.

    W' = W + s B A

is computed in float32 and rounded once to the base's number format. The base's files are taken one by one, so memory
holds one of them; tensors that the adapter leaves alone, the tokenizer and all other files are copied as they are.
"""

import json
import math
import shutil
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from reheatd.adapters.validate import CONFIG_FILE, WEIGHTS_FILE
from reheatd.errors import AdapterInvalidError, ReheatdError
from reheatd.files import publish_folder

PREFIX = "base_model.model."


def merge(base: Path, adapter: Path, target: Path) -> None:
    """Writes the checkpoint into `target`, complete or not at all.

    Raises:
        AdapterInvalidError: The base lacks a module that the adapter changes.
    """
    updates = _pairs(adapter)
    with publish_folder(target) as scratch:
        for file in sorted(base.rglob("*")):
            copy = scratch / file.relative_to(base)
            if file.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
            elif file.suffix == ".safetensors" and file.parent == base:
                _fold(file, copy, updates)
            else:
                shutil.copyfile(file, copy)
        if updates:
            raise AdapterInvalidError(f"{base} has no {next(iter(updates))}, which the adapter changes; name its base")


def _pairs(adapter: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """s B and A in float32, by the name of the weight that they change."""
    config = json.loads((adapter / CONFIG_FILE).read_text())
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    tensors = load_file(adapter / WEIGHTS_FILE)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, a in tensors.items():
        module, found, _ = name.removeprefix(PREFIX).partition(".lora_A.")
        if found:
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            pairs[f"{module}.weight"] = scale * b.float(), a.float()
    return pairs


def _fold(file: Path, copy: Path, updates: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Writes `file` with the updates of its weights into `copy`, and takes them from `updates`."""
    weights = load_file(file)
    for name in weights.keys() & updates.keys():
        scaled_b, a = updates.pop(name)
        weights[name] = (weights[name].float() + scaled_b @ a).to(weights[name].dtype)
    with safe_open(file, framework="pt") as opened:
        save_file(weights, copy, metadata=opened.metadata())


if __name__ == "__main__":
    try:
        merge(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
    except ReheatdError as error:
        sys.exit(error.message)
    except OSError as error:
        sys.exit(f"{error.filename or sys.argv[3]}: {error.strerror or error}")
