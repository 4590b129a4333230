"""What vLLM loads without a word is refused before it gets there."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reheatd.adapters.validate import base_digest, validate_adapter
from reheatd.errors import AdapterInvalidError, BadInputError
from tests.random_adapter import random_adapter

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
Tensors = dict[str, Any]


@pytest.fixture
def adapter(tmp_path: Path, tiny_policy: Path) -> Path:
    return random_adapter(tmp_path / "adapter", tiny_policy, rank=4)


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = {name: values.copy() for name, values in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def change_config(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def refused(folder: Path, model: Path, match: str) -> None:
    with pytest.raises(AdapterInvalidError, match=match):
        validate_adapter(folder, model, max_rank=16)


def test_a_good_adapter_passes(adapter: Path, tiny_policy: Path) -> None:
    validate_adapter(adapter, tiny_policy, max_rank=16)


def test_half_precision_adapters_pass(adapter: Path, tiny_policy: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    for dtype in (torch.bfloat16, torch.float16):
        file = adapter / "adapter_model.safetensors"
        save_file({name: values.to(dtype) for name, values in load_file(file).items()}, file)
        validate_adapter(adapter, tiny_policy, max_rank=16)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.update({f"{PREFIX}.lora_B.weight": t[f"{PREFIX}.lora_B.weight"][:-8]}), "another base model"),
        (lambda t: t.pop(f"{PREFIX}.lora_B.weight"), r"1 modules lack their A or B; .*q_proj"),
        (lambda t: [t.pop(name) for name in list(t) if ".layers.1." in name], "7 modules lack their A or B"),
        (
            lambda t: t.update({f"{PREFIX.replace('.0.', '.7.')}.lora_A.weight": np.ones((4, 64), np.float32)}),
            "belongs to no target module",
        ),
        (lambda t: t[f"{PREFIX}.lora_A.weight"].__setitem__((0, 0), np.nan), "not finite"),
        (lambda t: t[f"{PREFIX}.lora_A.weight"].__setitem__((0, 0), np.inf), "not finite"),
        (lambda t: [values.fill(0) for name, values in t.items() if "lora_B" in name], "does nothing"),
        (lambda t: [values.fill(1e4) for values in t.values()], "diverged"),
        (lambda t: t.clear(), "14 modules lack their A or B"),
    ],
    ids=["shape", "no B", "layer missing", "layer too many", "nan", "inf", "zero", "absurd norm", "empty"],
)
def test_tensors_that_do_not_fit(
    change: Callable[[Tensors], object], match: str, adapter: Path, tiny_policy: Path
) -> None:
    change_tensors(adapter, change)
    refused(adapter, tiny_policy, match)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"r": 32}, "rank 32 is not between 1 and 16"),
        ({"r": "many"}, "rank many"),
        ({"peft_type": "IA3"}, "serves only LORA"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head is a target module; .* must stay frozen"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens is a target"),
        ({"target_modules": ["c_attn"]}, r"\['c_attn'\] do not exist"),
        ({"target_modules": "all-linear"}, "is not a list"),
        ({"lora_alpha": 0}, "does nothing"),
    ],
)
def test_configurations_that_do_not_fit(fields: dict[str, Any], match: str, adapter: Path, tiny_policy: Path) -> None:
    change_config(adapter, **fields)
    refused(adapter, tiny_policy, match)


def test_broken_files(adapter: Path, tiny_policy: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    refused(adapter, tiny_policy, "write it again")
    weights.write_bytes(b"")
    refused(adapter, tiny_policy, "truncated")
    weights.write_bytes((12).to_bytes(8, "little") + b'{"a": [1] } ')
    refused(adapter, tiny_policy, "broken header")
    weights.unlink()
    refused(adapter, tiny_policy, "does not exist")
    weights.write_bytes(whole)
    (adapter / "adapter_config.json").write_text("{")
    refused(adapter, tiny_policy, "not valid JSON")
    (adapter / "adapter_config.json").unlink()
    refused(adapter, tiny_policy, "does not exist")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_links_pipes_and_devices_are_not_opened(adapter: Path, tiny_policy: Path, tmp_path: Path, name: str) -> None:
    file = adapter / name
    copy = shutil.copy(file, tmp_path / "elsewhere")
    makers: list[Callable[[], object]] = [
        lambda: file.symlink_to(copy),
        lambda: file.symlink_to("/dev/zero"),
        lambda: os.mkfifo(file),
        lambda: file.mkdir(),
    ]
    for make in makers:
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink()
        make()
        refused(adapter, tiny_policy, f"{name} is no plain file")


def test_a_tensor_that_is_not_what_the_header_says_is_refused(adapter: Path, tiny_policy: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    for entry, match in (
        ({"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}, r"x in .* is I64; adapters are F32"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "invalid shape, data type, or offset"),
    ):
        header = json.dumps({"x": entry}).encode()
        weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        refused(adapter, tiny_policy, match)


def test_the_digest_tells_base_models_apart(tiny_policy: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_policy, tmp_path / "copy"))
    assert base_digest(copy) == base_digest(tiny_policy)
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert base_digest(copy) != base_digest(tiny_policy)
    file.unlink()
    with pytest.raises(BadInputError, match=r"no \*\.safetensors"):
        base_digest(copy)
