"""The built-in policy: converted from its package, it answers, and ends its answer by itself."""

from pathlib import Path
from typing import Any

import pytest

from reheatd.engine.policy_model import resolve_policy


def test_the_builtin_policy_is_converted_once_and_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("REHEATD_CACHE", str(tmp_path))
    folder = resolve_policy("smollm2-135m-instruct")
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]  # nothing half-written beside it
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_policy("smollm2-135m-instruct") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    policy: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 2 + 3?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    answer = policy.generate(**prompt, max_new_tokens=32, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "2 + 3 = 5" in tokenizer.decode(answer)
    assert tokenizer.decode(answer[-1]) == "<|im_end|>"
