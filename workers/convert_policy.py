"""Converts a GGUF policy to bf16 safetensors with its tokenizer: `python -m workers.convert_policy FILE FOLDER`.

transformers reads GGUF by dequantising, but refuses to save such a model; its weights are therefore copied into a
fresh model of the same configuration.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NOT_PART_OF_THE_MODEL = ("quantization_config", "_name_or_path", "dtype", "torch_dtype")


def convert(gguf: Path, target: Path) -> None:
    """Writes `target` complete or not at all; an existing one is left alone."""
    source: Any = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    dequantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    values = {key: value for key, value in dequantised.config.to_dict().items() if key not in NOT_PART_OF_THE_MODEL}
    # The chat template ends a turn with the tokenizer's end token; the file's own metadata may name another.
    values["eos_token_id"] = tokenizer.eos_token_id
    config = type(dequantised.config)(**values)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict({name: weight.to(torch.bfloat16) for name, weight in dequantised.state_dict().items()})
    model.tie_weights()

    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    for file in scratch.iterdir():
        file.chmod(0o644)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    try:
        scratch.rename(target)
    except OSError:
        # Another process was quicker; what it wrote is the same.
        shutil.rmtree(scratch)
        if not (target / "config.json").is_file():
            raise


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
