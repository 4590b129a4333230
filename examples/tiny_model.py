"""Builds models that are small enough to be made on the spot, for examples and tests."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM


def tiny_qwen3(
    vocabulary: int,
    *,
    hidden_size: int,
    intermediate_size: int,
    layers: int = 2,
    heads: int = 2,
    kv_heads: int = 1,
    head_dim: int = 32,
    positions: int,
    eos: int | None = None,
    pad: int | None = None,
    seed: int = 0,
    initializer_range: float = 0.02,
) -> Qwen3ForCausalLM:
    """A Qwen3 with random float32 weights and a head of its own.

    Args:
        positions: Tokens of the longest sequence.
        eos: Token that ends a completion; None if no token does.
    """
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        initializer_range=initializer_range,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    return Qwen3ForCausalLM(config)
