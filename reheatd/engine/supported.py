"""Which policies can be served with adapters and trained; docs/models.md has the same lists with reasons.

What cannot work is refused at the start, by the name of what is in the way. An architecture that nobody has tried is
let through.
"""

from pathlib import Path
from typing import Any

from reheatd.engine.model_files import read_object
from reheatd.errors import BadInputError

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Keys of a configuration that say how many experts a layer has."""
OTHER_INPUTS = ("vision_config", "audio_config")
LOGIT_TRANSFORMS = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
"""Keys of models whose logits are not hidden @ head.T, each with the value that means "not used"."""
WITHOUT_ADAPTERS = frozenset(
    (
        "BloomForCausalLM", "FalconForCausalLM", "FalconMambaForCausalLM", "GPT2LMHeadModel", "GPTJForCausalLM",
        "Mamba2ForCausalLM", "MambaForCausalLM", "StableLmForCausalLM",
    )
)  # fmt: skip
"""Architectures that vLLM serves, but without LoRA."""


def check_supported(folder: Path, param: str) -> None:
    """Refuses a model that reheatd cannot serve and train.

    Args:
        folder: Folder with the model's `config.json`.
        param: The setting that names the model, for the message.

    Raises:
        BadInputError: The configuration cannot be read, or names something that is not supported.
    """
    reason = unsupported(read_object(folder / "config.json", param))
    if reason is not None:
        raise BadInputError(f"{param} = {folder} is not supported: {reason}; docs/models.md lists what is", param=param)


def unsupported(config: dict[str, Any]) -> str | None:
    """What of a model's configuration is not supported, and why; None if nothing is known to be."""
    architectures = config.get("architectures") or []
    for key in OTHER_INPUTS:
        if key in config:
            return f"it has a {key}, and only models of text alone can be trained"
    if config.get("is_encoder_decoder"):
        return "it has an encoder, and only decoders can be trained"
    for key in EXPERTS:
        if (config.get(key) or 0) > 1:
            return f"it is a mixture of experts ({key} = {config[key]}), and only dense models can be trained"
    for key, unused in LOGIT_TRANSFORMS.items():
        value = config.get(key, unused)
        if value is not None and value != unused:
            return f"it has {key} = {value}, but the losses need logits that are hidden state times LM head"
    for name in architectures:
        if name in WITHOUT_ADAPTERS:
            return f"vLLM serves {name} without adapters"
    return None
