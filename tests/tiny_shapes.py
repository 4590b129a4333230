"""Tiny random policies of the shapes that people have, which real vLLM and Transformers read like the large ones."""

from pathlib import Path
from typing import Any

from tests.tiny_policy import CHAT_TEMPLATE, VOCABULARY, tiny_tokenizer

BEGIN = "<|im_start|>assistant\n"
THINKING_TEMPLATE = CHAT_TEMPLATE.replace(
    BEGIN, BEGIN + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
"""As Qwen3's: the model thinks, unless the request says that it shall not."""
STRICT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHAT_TEMPLATE
)
"""As Gemma's: there is no system role."""
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 1024,
    "initializer_range": 0.1,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": COMMON,
    "llama": COMMON,
    "gemma3_text": COMMON | {"sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 1024},
}
"""Configurations by `model_type`."""


def build_shape(
    folder: Path, shape: str, *, tied: bool = False, chat_template: str | None = CHAT_TEMPLATE, seed: int = 0
) -> Path:
    """Writes a model of a shape and its tokenizer into `folder` (bf16 safetensors) and returns it.

    Args:
        shape: One of `SHAPES`.
        tied: Whether the LM head is the embedding's weight.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer, vocabulary = tiny_tokenizer(chat_template)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        shape, **SHAPES[shape], tie_word_embeddings=tied, bos_token_id=None,
        eos_token_id=vocabulary["<|im_end|>"], pad_token_id=vocabulary["<|endoftext|>"],
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
