"""A LoRA adapter with random weights, in PEFT's format: its answers differ from the base policy's by a lot."""

import json
import re
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def random_adapter(folder: Path, model: Path, *, rank: int = 16, seed: int = 0, size: float = 0.15) -> Path:
    """Writes an adapter of `rank` on every linear layer of `model` into `folder` and returns it.

    Args:
        size: Standard deviation of an update's entry relative to 1 / sqrt(inputs), the scale of a weight's entries.
    """
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    with safe_open(model / "model.safetensors", framework="numpy") as weights:
        for name in weights.keys():  # noqa: SIM118 (not a dictionary)
            layer = re.fullmatch(rf"(model\.layers\.\d+\.\w+\.(?:{'|'.join(LINEAR_LAYERS)}))\.weight", name)
            if layer is None:
                continue
            outputs, inputs = weights.get_slice(name).get_shape()
            prefix = f"base_model.model.{layer[1]}"
            tensors[f"{prefix}.lora_A.weight"] = rng.normal(0, inputs**-0.5, (rank, inputs)).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = rng.normal(0, size * rank**-0.5, (outputs, rank)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(LINEAR_LAYERS),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
