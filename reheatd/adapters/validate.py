"""Checks an adapter before the engine sees it.

vLLM loads smaller shapes, extra layers, another base's adapter and NaN weights without a word, so all of these are
refused here. NaN weights do the most harm, because what they leave in the KV cache outlives the adapter. On the CPU it
gets into other versions' answers: masked attention multiplies the rest of a reused block by zero, and 0 * NaN is NaN.
"""

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np

from reheatd.adapters.tensors import read_shapes, read_tensors
from reheatd.errors import AdapterInvalidError, BadInputError
from reheatd.text import decode

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
LARGEST_RELATIVE_UPDATE = 100.0
"""Largest plausible |scale * B A| over the square root of its size; a trained update is well below 1."""

_TENSOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")


def validate_adapter(folder: Path, model_path: Path, *, max_rank: int) -> None:
    """Checks that the adapter in `folder` fits the base model in `model_path` and does something finite.

    Raises:
        AdapterInvalidError: A file is missing or broken. The rank is too large. A target module does not exist, is the
            LM head or an embedding, or lacks its A or B in some layer. A shape does not fit. A value is not finite.
            The update is zero everywhere or absurdly large.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        _check_plain(folder / name)
    config = read_config(folder)
    rank = checked_rank(folder, config.get("r"), max_rank)
    if config.get("peft_type") != "LORA":
        raise AdapterInvalidError(
            f"{folder.name}: peft_type = {config.get('peft_type')!r}; the engine serves only LORA"
        )
    for key in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias"):
        if config.get(key):
            raise AdapterInvalidError(f"{folder.name}: {key} = {config[key]} is not supported by the engine; unset it")
    shapes = base_shapes(model_path)
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not targets:
        raise AdapterInvalidError(f"{folder.name}: target_modules = {targets!r} is not a list of module names")
    modules = {target: {name for name in shapes if f".{name}".endswith(f".{target}")} for target in targets}
    unknown = [target for target, names in modules.items() if not names]
    if unknown:
        raise AdapterInvalidError(f"{folder.name}: target modules {unknown} do not exist in {model_path.name}")
    expected = set().union(*modules.values())
    outside = sorted(name for name in expected if ".layers." not in name)
    if outside:
        raise AdapterInvalidError(
            f"{folder.name}: {outside[0]} is a target module; head and embeddings must stay frozen"
        )

    scale = float(config.get("lora_alpha", rank)) / (rank**0.5 if config.get("use_rslora") else rank)
    pairs: dict[str, dict[str, Any]] = {}
    for tensor, values in read_tensors(folder / WEIGHTS_FILE):
        match = _TENSOR.match(tensor)
        if match is None or match["module"] not in expected:
            raise AdapterInvalidError(f"{folder.name}: tensor {tensor} belongs to no target module of {model_path}")
        if not np.isfinite(values).all():
            raise AdapterInvalidError(
                f"{folder.name}: tensor {tensor} has values that are not finite; training diverged"
            )
        rows, columns = shapes[match["module"]]
        fits = (rank, columns) if match["side"] == "A" else (rows, rank)
        if values.shape != fits:
            raise AdapterInvalidError(
                f"{folder.name}: tensor {tensor} has shape {values.shape}, {model_path.name} needs {fits}; was it "
                "trained on another base model?"
            )
        pairs.setdefault(match["module"], {})[match["side"]] = values
    missing = sorted(name for name in expected if set(pairs.get(name, {})) != {"A", "B"})
    if missing:
        raise AdapterInvalidError(
            f"{folder.name}: {len(missing)} modules lack their A or B; the first of them is {missing[0]}"
        )
    updates = [_update_norm(pair["A"], pair["B"], scale) for pair in pairs.values()]
    if max(updates) == 0:
        raise AdapterInvalidError(f"{folder.name}: every update is zero; the adapter does nothing")
    if max(updates) > LARGEST_RELATIVE_UPDATE:
        raise AdapterInvalidError(f"{folder.name}: an update has norm {max(updates):.3g} per weight; training diverged")


def _check_plain(file: Path) -> None:
    """Refuses links, pipes and devices: behind them may be what is not the adapter's, or what never ends."""
    if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
        raise AdapterInvalidError(f"{file} is no plain file; copy what it stands for into the adapter's folder")


def base_digest(model_path: Path) -> str:
    """Digest of the base model: its configuration, and the sizes and parts of its weight files.

    The weight files are sampled rather than read whole, because a full hash of hundreds of gigabytes would take
    minutes.
    """
    digest = hashlib.sha256((model_path / "config.json").read_bytes())
    files = sorted(model_path.glob("*.safetensors"))
    if not files:
        raise BadInputError(f"{model_path} has no *.safetensors; name a folder in Hugging Face format")
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as handle:
            for part in range(64):
                handle.seek(part * size // 64)
                digest.update(handle.read(1 << 16))
    return digest.hexdigest()


def checked_rank(folder: Path, rank: Any, max_rank: int) -> int:
    """The rank of the adapter in `folder`.

    Raises:
        AdapterInvalidError: The engine does not accept this rank, or it is no number.
    """
    if not isinstance(rank, int) or not 1 <= rank <= max_rank:
        raise AdapterInvalidError(
            f"{folder.name}: rank {rank} is not between 1 and {max_rank}; raise engine.max_lora_rank or train a "
            "smaller one",
            param="rank",
        )
    return rank


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the adapter in `folder`.

    Raises:
        AdapterInvalidError: There is none, or it is not a JSON object.
    """
    file = folder / CONFIG_FILE
    try:
        config = json.loads(decode(file.read_bytes()))
    except FileNotFoundError as error:
        raise AdapterInvalidError(f"{file} does not exist; an adapter folder needs it") from error
    except OSError as error:
        raise AdapterInvalidError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise AdapterInvalidError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise AdapterInvalidError(f"{file} is not a JSON object")
    return config


def base_shapes(model_path: Path) -> dict[str, tuple[int, int]]:
    """The shape (out, in) of every matrix of the base model, by module name."""
    shapes: dict[str, tuple[int, int]] = {}
    for file in model_path.glob("*.safetensors"):
        for name, shape in read_shapes(file).items():
            if name.endswith(".weight") and len(shape) == 2:
                shapes[name.removesuffix(".weight")] = shape
    return shapes


def _update_norm(a_RI: Any, b_OR: Any, scale: float) -> float:
    """The Frobenius norm of scale B A over the square root of its size, computed from the small Gram matrices."""
    gram = (b_OR.T.astype(np.float64) @ b_OR) * (a_RI.astype(np.float64) @ a_RI.T)
    return float(abs(scale) * np.sqrt(max(gram.sum(), 0.0) / (b_OR.shape[0] * a_RI.shape[1])))
