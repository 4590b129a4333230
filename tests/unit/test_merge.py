"""A merged checkpoint is the base with the update folded in, and everything else as it was."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reheatd.errors import AdapterInvalidError
from reheatd.process.children import python_module
from tests.random_adapter import random_adapter
from workers.merge import merge

Q = "model.layers.1.self_attn.q_proj"


def test_peft_and_the_merged_checkpoint_compute_the_same(tmp_path: Path, tiny_policy: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_policy).save_pretrained(base)
    adapter = random_adapter(tmp_path / "adapter", base, rank=4)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 6}))
    merge(base, adapter, tmp_path / "merged")
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(base)
        wanted = PeftModel.from_pretrained(plain, adapter)(input_ids=ids).logits
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("a").input_ids


def test_format_files_and_other_weights_stay(tmp_path: Path, tiny_policy: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", tiny_policy, rank=4)
    done = subprocess.run(
        python_module("workers.merge", str(tiny_policy), str(adapter), str(tmp_path / "merged")), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_policy, tmp_path / "merged"))
    pair = load_file(adapter / "adapter_model.safetensors")
    a, b = (pair[f"base_model.model.{Q}.lora_{side}.weight"] for side in "AB")
    assert before.keys() == after.keys()
    assert torch.equal(after[f"{Q}.weight"], (before[f"{Q}.weight"].float() + b @ a).bfloat16())
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])
    names = {file.name for file in tiny_policy.iterdir()}
    assert names == {file.name for file in (tmp_path / "merged").iterdir()}
    assert (tmp_path / "merged" / "config.json").read_bytes() == (tiny_policy / "config.json").read_bytes()


def test_an_adapter_of_another_base_leaves_nothing_behind(tmp_path: Path, tiny_policy: Path) -> None:
    adapter = random_adapter(tmp_path / "adapter", tiny_policy, rank=4)
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace(".layers.1.", ".layers.9."): values for name, values in load_file(file).items()}, file)
    with pytest.raises(AdapterInvalidError, match=r"has no model\.layers\.9\."):
        merge(tiny_policy, adapter, tmp_path / "merged")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["adapter"]
