"""A tiny Qwen3-shaped policy that real vLLM, transformers and PEFT all accept: fast to build, fast to serve.

Its weights are random, with an LM head scaled so that the entropy at temperature 1 is between 2 and 3 nats: far from
uniform, far from collapsed. The first dimensions of the hidden state hold a constant that the LM head does not read;
as the final norm fixes the state's length, a LoRA that changes this constant changes the temperature. So the policy
can be cooled and reheated in a few steps, as a trained LLM can, which random weights alone do not allow.
"""

import json
from pathlib import Path
from typing import Any

HEAD_SCALE = 0.5
QUIET_DIMENSIONS = 16
QUIET_VALUE = 2.0
VOCABULARY = 320
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(chat_template: str | None) -> tuple[Any, dict[str, int]]:
    """A tokenizer with one token for every byte, and its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        token: index for index, token in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = chat_template
    return fast, vocabulary


def build_tiny_policy(folder: Path, seed: int = 0) -> Path:
    """Writes model and tokenizer into `folder` (bf16 safetensors) and returns it."""
    import torch

    from examples.tiny_model import tiny_qwen3

    fast, vocabulary = tiny_tokenizer(CHAT_TEMPLATE)
    model: Any = tiny_qwen3(
        VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        positions=1024,
        eos=vocabulary["<|im_end|>"],
        pad=vocabulary["<|endoftext|>"],
        seed=seed,
    )
    with torch.no_grad():
        for weight in model.model.parameters():
            if weight.ndim == 2:
                weight.normal_(0, weight.shape[1] ** -0.5)
        model.model.embed_tokens.weight.normal_(0, 1)
        model.model.embed_tokens.weight[:, :QUIET_DIMENSIONS] = QUIET_VALUE
        model.lm_head.weight.normal_(0, HEAD_SCALE)
        model.lm_head.weight[:, :QUIET_DIMENSIONS] = 0
        # Rows without a text of their own (beyond the bytes) and a quick end of text help nobody.
        model.lm_head.weight[len(vocabulary) :] = 0
        model.lm_head.weight[: vocabulary["<|im_end|>"] + 1] = 0
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


if __name__ == "__main__":
    import sys

    print(json.dumps(str(build_tiny_policy(Path(sys.argv[1])))))
