"""How many tokens of prompt and completion the engine accepts, with `policy.max_model_len = "auto"`.

As many as the policy was made for, or as one sequence may have in the engine's KV cache if that is less. It follows
from files and settings alone, so that it is the same after every start.
"""

from pathlib import Path
from typing import Any

from reheatd.config import Settings, check_lengths
from reheatd.engine.model_files import read_object
from reheatd.engine.number_format import engine_format
from reheatd.errors import BadInputError
from reheatd.plan.gpu_plan import GpuPlan
from reheatd.plan.memory import Device, kv_bytes_per_token
from reheatd.plan.shape import PolicyShape

LEAST_TOKENS = 64
"""The least that `policy.max_model_len` can be set to."""
BLOCK_TOKENS = 16
"""The length is a multiple of this."""


def with_length(settings: Settings, model: Path, device: Device, gpus: GpuPlan | None) -> Settings:
    """The settings with a number for `policy.max_model_len`.

    Args:
        model: Folder of the policy.
        gpus: What the engines get of the GPUs; None on a CPU.

    Raises:
        BadInputError: The policy's files name no length, the KV cache is too small for any, or a job asks for answers
            that leave no room for a prompt.
    """
    if settings.policy.max_model_len != "auto":
        return settings
    config = read_object(model / "config.json", "policy.model")
    length, by = made_for(model, config), "what the policy was made for"
    if length is None:
        raise BadInputError(
            f"the config.json of {settings.policy.model} has no max_position_embeddings, so that policy.max_model_len "
            "cannot be found by itself; set it to the number of tokens that the policy was made for",
            param="policy.max_model_len",
        )
    engine, kv_tokens = settings.engine, None if gpus is None else gpus.kv_tokens
    if device == "cpu" and not engine.urls:
        itemsize = 2 if engine_format(engine.dtype, device).name == "bfloat16" else 4
        kv_tokens = engine.kv_cache_bytes // kv_bytes_per_token(PolicyShape.read(config), itemsize, 1)
    if kv_tokens is not None and kv_tokens // BLOCK_TOKENS * BLOCK_TOKENS < length:
        length, by = kv_tokens // BLOCK_TOKENS * BLOCK_TOKENS, "what the engine's KV cache holds"
    if length < LEAST_TOKENS:
        larger = "engine.kv_cache_bytes" if device == "cpu" else "engine.gpu_memory_utilization"
        raise BadInputError(
            f"the engine's KV cache has room for {length} tokens of {settings.policy.model}, which is less than any "
            f"prompt and answer need; raise {larger}",
            param=larger,
        )
    found = settings.found_at_start("policy", "max_model_len", length, by)
    check_lengths(found, BadInputError)
    return found


def made_for(model: Path, config: dict[str, Any]) -> int | None:
    """Tokens of prompt and completion that a model was made for, as vLLM reads it from its files; None if unknown.

    Args:
        config: What its `config.json` says.
    """
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    length = config.get("max_position_embeddings")
    if rope.get("rope_type", rope.get("type")) == "longrope":
        length = config.get("original_max_position_embeddings", length)
    file = model / "tokenizer_config.json"
    if length is None or not file.is_file():
        return length
    # Tokenizers without a limit of their own have a number like 1e30 there.
    return int(min(length, read_object(file, "policy.model").get("model_max_length") or length))
