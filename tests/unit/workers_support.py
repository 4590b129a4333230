"""A tiny policy and a sampler in the same process, so that training code is tested without servers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3ForCausalLM

from examples.tiny_model import tiny_qwen3
from reheatd.json_lines import Messages
from reheatd.measures import EntropyEstimate
from workers.policy import Policy
from workers.sampling.in_process import InProcessSampler

VOCABULARY = 97

torch.set_num_threads(1)  # tiny matrices: threads only wait for each other


def tiny_model(seed: int = 0, head_scale: float = 6.0) -> Qwen3ForCausalLM:
    """Two layers, random weights, about 2.5 nats per token; float32."""
    model = tiny_qwen3(
        VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        head_dim=16,
        positions=128,
        seed=seed,
        initializer_range=0.1,
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(head_scale)
    return model


def tiny_llama() -> LlamaForCausalLM:
    """A Llama of about the same size, with biases and a head that is tied to the embedding."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
        mlp_bias=True,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.4,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(0, 0.4)
    return model


def tiny_mistral() -> MistralForCausalLM:
    """A Mistral of about the same size, whose layers see four tokens back."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        sliding_window=4,
        initializer_range=0.4,
    )
    return MistralForCausalLM(config)


def number_prompts(count: int, length: int = 5) -> list[Messages]:
    """Prompts whose content is a list of token ids."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCABULARY, (count, length), generator=generator).tolist()
    return [[{"role": "user", "content": " ".join(map(str, row))}] for row in ids]


class NumberCodec:
    """Text is a list of token ids; nothing ends a completion but its length."""

    stop_ids: frozenset[int] = frozenset()

    def encode(self, messages: Messages) -> list[int]:
        return [int(part) for part in messages[-1]["content"].split()]

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(map(str, token_ids))


class RecordingSampler(InProcessSampler):
    """Keeps what was published and measured."""

    def __init__(self, policy: Policy, probes: Sequence[Messages]) -> None:
        super().__init__(policy, NumberCodec(), probes, probe_tokens=12)
        self.published: list[int] = []
        self.entropies: list[float] = []

    def publish(self, policy: Policy, step: int) -> None:
        super().publish(policy, step)
        self.published.append(step)

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        measured = super().measure_entropy(seed)
        self.entropies.append(measured.mean)
        return measured


class SilentProgress:
    """Records what is reported."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, int, dict[str, float]]] = []

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        self.reports.append((phase, step, metrics or {}))


def job_fields(tmp_path: Path) -> dict[str, Any]:
    """Fields every spec needs that in-process tests do not use."""
    return {
        "job_id": "test",
        "parent_version": 0,
        "parent_adapter": None,
        "model_path": tmp_path,
        "gateway_url": "http://127.0.0.1:1",
        "output_dir": tmp_path,
    }
