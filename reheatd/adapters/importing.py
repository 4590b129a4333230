"""Brings an adapter that another trainer wrote into the form that is validated, served and trained on here.

TRL, Unsloth and PEFT write PEFT's own format. verl and prime-rl write the same files with other names of tensors, and
leave out parts of the configuration. The form here has one rank and one scale for all modules, plain names, and A and B
for every module of every layer that is a target:

    s B A = (S B') A'    with B' = [s / S B, 0], A' = [A; 0]

Here s is a module's own scale (alpha / r, or alpha / sqrt(r) for rsLoRA, with its own alpha and r where the patterns
give it some), and S is the scale of all. What this form cannot express is refused with the reason. Nothing is
unpickled.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reheatd.adapters.tensors import read_tensors, write_tensors
from reheatd.adapters.validate import CONFIG_FILE, WEIGHTS_FILE, base_digest, base_shapes, checked_rank, read_config
from reheatd.errors import AdapterInvalidError
from reheatd.files import publish_folder

PICKLED_FILES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"})
"""Names that torch.compile, FSDP, activation checkpointing and data parallelism put between the names of modules."""
PREFIX = "base_model.model."
REFUSED: dict[str, str] = {
    "use_dora": "DoRA has magnitudes that the engine does not apply; train with use_dora = false",
    "modules_to_save": "whole modules were trained, which an adapter of the engine cannot hold; train without",
    "lora_bias": "a bias of B is not applied by the engine; train with lora_bias = false",
    "trainable_token_indices": "embeddings were trained, and must stay frozen; train without",
    "target_parameters": "LoRA on bare parameters is not served by the engine; train modules instead",
    "layer_replication": "replicated layers are another model than the policy; train without",
    "alora_invocation_tokens": "activated LoRA is not served by the engine; train plain LoRA",
    "use_qalora": "QALoRA is not served by the engine; train plain LoRA",
    "use_bdlora": "block-diagonal LoRA is not served by the engine; train plain LoRA",
    "fan_in_fan_out": "the modules store their weights transposed, which the engine does not expect; use another base",
}
"""Keys of the configuration that must be unset, each with the reason."""
PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Initialisations by name that leave the base as it is; the others (PiSSA, OLoRA, CorDA, LoftQ) change its weights."""
QUANTISED = re.compile(r"-(unsloth-)?bnb-(4|8)bit$")
"""Ending of a base's name if it was quantised for training, as by Unsloth; the adapter is served on the original."""
MAX_PATTERN = 200
"""Longest key of `alpha_pattern`, in characters."""
MAX_REPEATS = 3
"""Most repetitions in a key of `alpha_pattern`; a search takes the length of a name to this power."""
LARGEST_ALPHA = 1e6

_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.(?!(weight|bias)$)(?P<adapter>\w+))?(\.weight)?")


@dataclass(frozen=True)
class Origin:
    """Where an imported adapter came from, as its files say."""

    base_model: str | None
    """Base model by the adapter's configuration; None if it names none."""
    rank: int
    """The largest rank of its modules."""
    modules: int
    """Number of modules that it changes."""


@dataclass
class _Pair:
    """A and B of one module, and what multiplies B A."""

    a_RI: NDArray[np.float32] | None = None
    b_OR: NDArray[np.float32] | None = None
    scale: float = 0.0


def find_adapter(folder: Path) -> Path:
    """The folder with `adapter_config.json`: `folder` itself, or the one folder inside that has it.

    Raises:
        AdapterInvalidError: There is none, or there are several.
    """
    if (folder / CONFIG_FILE).is_file():
        return folder
    found = sorted(file.parent for file in folder.rglob(CONFIG_FILE))
    if len(found) != 1:
        names = ", ".join(str(each.relative_to(folder)) for each in found) or "none"
        raise AdapterInvalidError(f"one {CONFIG_FILE} is needed, found {names}; name the folder of one PEFT adapter")
    return found[0]


def normalise_adapter(
    source: Path,
    target: Path,
    model_path: Path,
    *,
    base_name: str,
    policy_digest: str,
    max_rank: int,
    any_base: bool = False,
) -> Origin:
    """Writes the adapter in `source` into `target`, in the form that `validate_adapter` checks; run that next.

    Values stay as they are, in bfloat16 or float32, where padding and a factor allow it. A factor that is no power of
    two rounds B once, to float32.

    Args:
        target: The folder to write, which appears complete or not at all.
        model_path: Folder of the policy's base model.
        base_name: Name of that base as the user configured it.
        policy_digest: `base_digest` of `model_path`.
        any_base: Accepts an adapter that names another base; its shapes must fit all the same.

    Raises:
        AdapterInvalidError: The adapter cannot be expressed in this form, or was trained on another base.
    """
    config = read_config(source)
    _check_kind(source, config)
    base = config.get("base_model_name_or_path") or None
    if not any_base:
        _check_base(source, base, base_name, policy_digest)
    shapes = base_shapes(model_path)
    pairs = _read_pairs(source, shapes)
    for module, pair in pairs.items():
        pair.scale = _scale(source, config, module, pair)
    rank = checked_rank(source, max(len(pair.a_RI) for pair in pairs.values() if pair.a_RI is not None), max_rank)
    common = max((pair.scale for pair in pairs.values()), key=abs)
    targets = sorted({module.rpartition(".")[2] for module in pairs})
    with publish_folder(target) as scratch:
        write_tensors(scratch / WEIGHTS_FILE, _tensors(pairs, shapes, targets, rank, common))
        (scratch / CONFIG_FILE).write_text(json.dumps(_config(model_path, rank, rank * common, targets), indent=2))
    return Origin(base_model=base, rank=rank, modules=len(pairs))


def _check_kind(source: Path, config: dict[str, Any]) -> None:
    """Checks that the adapter is plain LoRA in a file that is safe to read."""
    if config.get("peft_type") != "LORA":
        raise AdapterInvalidError(
            f"{source.name}: peft_type = {config.get('peft_type')!r}; the engine serves only LORA"
        )
    for key, reason in REFUSED.items():
        if config.get(key):
            raise AdapterInvalidError(f"{source.name}: {key} = {config[key]!r}: {reason}", param=key)
    if config.get("bias", "none") != "none":
        raise AdapterInvalidError(f"{source.name}: bias = {config['bias']!r}: biases were trained; train with 'none'")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        raise AdapterInvalidError(
            f"{source.name}: init_lora_weights = {init!r} changed the weights of the base; convert the adapter with "
            "PEFT's path_initial_model_for_weight_conversion"
        )
    if not (source / WEIGHTS_FILE).exists():
        for name in PICKLED_FILES:
            if (source / name).exists():
                raise AdapterInvalidError(
                    f"{source.name}: {name} is pickled, and unpickling may run any code; save it as {WEIGHTS_FILE}"
                )


def _check_base(source: Path, base: Any, base_name: str, policy_digest: str) -> None:
    """Checks that the adapter was trained on the policy's base, if it names a base at all."""
    if base is None:
        return
    if not isinstance(base, str):
        raise AdapterInvalidError(f"{source.name}: base_model_name_or_path = {base!r} is no name")
    wrong = AdapterInvalidError(
        f"{source.name}: trained on {base}, but the policy's base is {base_name}; import it with any_base "
        "(--any-base) if they are the same model",
        param="base_model_name_or_path",
    )
    try:
        digest = base_digest(Path(base).expanduser())
    except (OSError, ValueError, RuntimeError):  # no such folder here, or none with a model, so its name must do
        if _model_name(base) != _model_name(base_name):
            raise wrong from None
    else:
        if digest != policy_digest:
            raise wrong


def _model_name(name: str) -> str:
    """The part of a model's name or path that means the same everywhere, in lower case."""
    parts = [part for part in name.replace("\\", "/").split("/") if part]
    cached = [part for part in parts if part.startswith("models--")]  # a folder of the Hugging Face cache
    last = cached[-1].rpartition("--")[2] if cached else parts[-1] if parts else ""
    return QUANTISED.sub("", last.lower())


def _read_pairs(source: Path, shapes: dict[str, tuple[int, int]]) -> dict[str, _Pair]:
    """A and B of every module, by the module's name in the base."""
    pairs: dict[str, _Pair] = {}
    for tensor, values in read_tensors(source / WEIGHTS_FILE):
        module, side = _place(source, tensor, shapes)
        pair = pairs.setdefault(module, _Pair())
        if (pair.a_RI if side == "A" else pair.b_OR) is not None:
            raise AdapterInvalidError(f"{source.name}: {tensor} comes twice; export one adapter, not several")
        if values.ndim != 2:
            raise AdapterInvalidError(f"{source.name}: {tensor} has shape {values.shape}; LoRA has matrices")
        with np.errstate(over="ignore"):  # what becomes infinite is refused when the result is validated
            setattr(pair, "a_RI" if side == "A" else "b_OR", values.astype(np.float32))
    if not pairs:
        raise AdapterInvalidError(f"{source.name}: {WEIGHTS_FILE} holds no tensors; the trainer saved too early")
    for module, pair in pairs.items():
        _check_pair(source, module, pair, shapes[module])
    return pairs


def _place(source: Path, tensor: str, shapes: dict[str, tuple[int, int]]) -> tuple[str, str]:
    """The base's module that a tensor belongs to, and whether it is A or B."""
    bare = ".".join(part for part in tensor.split(".") if part not in WRAPPERS)
    while bare.startswith(PREFIX):
        bare = bare.removeprefix(PREFIX)
    match = _TENSOR.fullmatch(bare)
    if match is None:
        raise AdapterInvalidError(f"{source.name}: tensor {tensor} {_reason(bare)}")
    named = match["module"]
    module = next((each for each in (named, f"model.{named}", named.removeprefix("model.")) if each in shapes), None)
    if module is not None and ".layers." in f".{module}":
        return module, match["side"]
    if module is not None or re.search(r"(^|\.)(lm_head|embed_tokens)$", named):
        raise AdapterInvalidError(f"{source.name}: {tensor} is LoRA on {named}; head and embeddings must stay frozen")
    raise AdapterInvalidError(f"{source.name}: {tensor} belongs to no module of the policy; was the base another one?")


def _reason(tensor: str) -> str:
    if "lora_embedding_" in tensor:
        return "is LoRA on embeddings, which must stay frozen; train without it"
    if "lora_magnitude_vector" in tensor:
        return "belongs to DoRA, which the engine does not apply; train plain LoRA"
    if tensor.endswith(".bias"):
        return "is a bias, which the engine does not apply; train without it"
    return "is not LoRA: whole modules were trained (modules_to_save), which the engine cannot apply; train without"


def _check_pair(source: Path, module: str, pair: _Pair, shape: tuple[int, int]) -> None:
    if pair.a_RI is None or pair.b_OR is None:
        raise AdapterInvalidError(f"{source.name}: {module} lacks its {'A' if pair.a_RI is None else 'B'}")
    rows, columns = shape
    if (len(pair.b_OR), pair.a_RI.shape[1]) != shape or pair.b_OR.shape[1] != len(pair.a_RI) or not len(pair.a_RI):
        raise AdapterInvalidError(
            f"{source.name}: A {pair.a_RI.shape} and B {pair.b_OR.shape} of {module} do not fit the policy's "
            f"{rows} x {columns} weights; was it trained on another base model?"
        )


def _scale(source: Path, config: dict[str, Any], module: str, pair: _Pair) -> float:
    """What multiplies B A in one module."""
    rank = 0 if pair.a_RI is None else len(pair.a_RI)
    if rank not in (config.get("r"), *_pattern(source, config, "rank_pattern").values()):
        raise AdapterInvalidError(
            f"{source.name}: {module} has rank {rank}, but {CONFIG_FILE} says {config.get('r')}; they are of two runs"
        )
    alpha = config.get("lora_alpha")
    for pattern, value in _pattern(source, config, "alpha_pattern").items():
        if _matches(source, pattern, module):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < abs(alpha) <= LARGEST_ALPHA:
        raise AdapterInvalidError(
            f"{source.name}: lora_alpha = {alpha!r} of {module} is no scale (verl's model merger writes 0); "
            "write the alpha of the training run into it",
            param="lora_alpha",
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(source: Path, config: dict[str, Any], key: str) -> dict[str, Any]:
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict):
        raise AdapterInvalidError(f"{source.name}: {key} = {pattern!r} is no table of names and values", param=key)
    return pattern


def _matches(source: Path, pattern: str, module: str) -> bool:
    """Whether a key of `alpha_pattern` means this module: PEFT reads it as the end of a name, a regular expression.

    An expression whose search could take for ever is refused, because the daemon would hang.
    """
    if pattern == module or module.endswith(f".{pattern}"):
        return True
    repeats = len(re.findall(r"[*+{]", pattern))
    try:
        if len(pattern) > MAX_PATTERN or repeats > MAX_REPEATS or re.search(r"\)\s*[*+{]", pattern):
            raise re.error("too complex")
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except (re.error, OverflowError) as error:
        raise AdapterInvalidError(
            f"{source.name}: alpha_pattern has {pattern[:80]!r}, which cannot be used as a pattern ({error}); "
            "write out the names of the modules",
            param="alpha_pattern",
        ) from error


def _tensors(
    pairs: dict[str, _Pair], shapes: dict[str, tuple[int, int]], targets: list[str], rank: int, common: float
) -> dict[str, NDArray[np.float32]]:
    """A' and B' of every module with the name of a target; modules that the adapter leaves alone get zeros."""
    tensors: dict[str, NDArray[np.float32]] = {}
    for module, (rows, columns) in sorted(shapes.items()):
        if module.rpartition(".")[2] not in targets:
            continue
        a_RI, b_OR = np.zeros((rank, columns), np.float32), np.zeros((rows, rank), np.float32)
        pair = pairs.get(module)
        if pair is not None and pair.a_RI is not None and pair.b_OR is not None:
            a_RI[: len(pair.a_RI)] = pair.a_RI
            b_OR[:, : len(pair.a_RI)] = pair.b_OR * np.float64(pair.scale / common)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a_RI
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b_OR
    return tensors


def _config(model_path: Path, rank: int, alpha: float, targets: list[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model_path),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "target_modules": targets,
        "lora_dropout": 0.0,
        "bias": "none",
    }
