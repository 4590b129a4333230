"""Converts a GGUF policy to bf16 safetensors with its tokenizer: `python -m workers.convert_policy FILE FOLDER`.

transformers reads GGUF by dequantising, but refuses to save such a model. Its weights are therefore copied into a fresh
model of the same configuration.
"""

import functools
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reheatd.files import only_process_in, publish_folder

NOT_PART_OF_THE_MODEL = ("quantization_config", "_name_or_path", "dtype", "torch_dtype")


def convert(file: Path, target: Path) -> None:
    """Writes `target` complete or not at all, unless it exists already or another process is writing it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with only_process_in(target.parent):
        if not (target / "config.json").is_file():
            _convert(file, target)


def _convert(file: Path, target: Path) -> None:
    # Without the caches, transformers would read the whole file three times, for configuration, weights and tokenizer,
    # and make the same table of names for every module.
    for name in ("GGUFReader", "get_tensor_name_map"):
        setattr(gguf, name, functools.cache(getattr(gguf, name)))
    source: Any = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    dequantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    values = {key: value for key, value in dequantised.config.to_dict().items() if key not in NOT_PART_OF_THE_MODEL}
    # The chat template ends a turn with the tokenizer's end token, but the file's own metadata may name another one.
    values["eos_token_id"] = tokenizer.eos_token_id
    config = type(dequantised.config)(**values)
    with torch.device("meta"):  # so that the model is not filled with random weights first
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    weights = {name: weight.to(torch.bfloat16) for name, weight in dequantised.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    model.tie_weights()

    with publish_folder(target) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
