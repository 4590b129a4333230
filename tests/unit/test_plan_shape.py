"""The arithmetic of sizes, against the published numbers of weights and against models that Transformers builds."""

from typing import Any

import pytest

from reheatd.errors import BadInputError
from reheatd.plan.shape import PolicyShape
from tests.tiny_shapes import SHAPES

QWEN3: dict[str, Any] = {"model_type": "qwen3", "vocab_size": 151_936, "head_dim": 128, "num_key_value_heads": 8}
PUBLISHED = {
    596_049_920: QWEN3
    | {"num_hidden_layers": 28, "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16}
    | {"tie_word_embeddings": True},
    4_022_468_096: QWEN3
    | {"num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32}
    | {"tie_word_embeddings": True},
    8_190_735_360: QWEN3
    | {"num_hidden_layers": 36, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32}
    | {"tie_word_embeddings": False},
    32_762_123_264: QWEN3
    | {"num_hidden_layers": 64, "hidden_size": 5120, "intermediate_size": 25600, "num_attention_heads": 64}
    | {"tie_word_embeddings": False},
}
"""Configurations of Qwen3-0.6B, 4B, 8B and 32B by their number of weights, as on their model cards' safetensors."""


@pytest.mark.parametrize("parameters", sorted(PUBLISHED))
def test_the_weights_of_qwen3_are_counted_to_the_last(parameters: int) -> None:
    assert PolicyShape.read(PUBLISHED[parameters]).parameters == parameters


@pytest.mark.parametrize("shape", ["qwen3", "llama", "gemma3_text"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_of_a_model_are_counted_to_the_last(shape: str, tied: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(shape, **SHAPES[shape], tie_word_embeddings=tied)
    model: Any = AutoModelForCausalLM.from_config(config)
    assert PolicyShape.read(config.to_dict()).parameters == sum(weight.numel() for weight in model.parameters())


def test_a_lora_is_counted_to_the_last() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = AutoConfig.for_model("qwen3", **SHAPES["qwen3"])
    peft: Any = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=4, target_modules=targets))
    expected = sum(weight.numel() for name, weight in peft.named_parameters() if "lora_" in name)
    assert PolicyShape.read(config.to_dict()).lora_parameters(4, targets) == expected


def test_a_configuration_without_a_size_is_named() -> None:
    with pytest.raises(BadInputError, match="mamba has no num_attention_heads"):
        PolicyShape.read({"model_type": "mamba"})
