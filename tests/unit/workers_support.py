"""A tiny policy and a sampler in the same process, so that training code is tested without servers."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from reheatd.jobs.contracts import EntropyEstimate
from workers.losses import chunked_logprobs
from workers.policy import Policy, TokenBatch
from workers.sampling import Rollout
from workers.task_data import Messages

VOCABULARY = 97

torch.set_num_threads(1)  # tiny matrices: threads only wait for each other


def tiny_model(seed: int = 0, head_scale: float = 6.0) -> Qwen3ForCausalLM:
    """Two layers, random weights, about 2.5 nats per token; float32."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.1,
        eos_token_id=None,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(head_scale)
    return model


def number_prompts(count: int, length: int = 5) -> list[Messages]:
    """Prompts whose content is a list of token ids."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCABULARY, (count, length), generator=generator).tolist()
    return [[{"role": "user", "content": " ".join(map(str, row))}] for row in ids]


def number_ids(messages: Messages) -> list[int]:
    return [int(part) for part in messages[-1]["content"].split()]


class InProcessSampler:
    """`workers.rollouts.Sampler` on the trainer's own model."""

    def __init__(
        self,
        policy: Policy,
        probes: Sequence[Messages],
        *,
        render: Callable[[Messages], list[int]] = number_ids,
        decode: Callable[[list[int]], str] = lambda ids: " ".join(map(str, ids)),
        max_tokens: int = 12,
    ) -> None:
        self.policy = policy
        self.probes = probes
        self.model = "policy-v1"
        self.published: list[int] = []
        self.entropies: list[float] = []
        self._render, self._decode, self._max_tokens = render, decode, max_tokens

    def publish(self, policy: Policy, step: int) -> None:
        self.published.append(step)
        self.model = f"job-test-{step}"

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Messages], *, n: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Rollout]]:
        torch.manual_seed(seed)
        rendered = [self._render(messages) for messages in prompts for _ in range(n)]
        width = max(map(len, rendered))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rendered])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rendered])
        model = cast(Any, self.policy._model)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_tokens,
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_k=0 if temperature else None,
            pad_token_id=0,
        )
        eos = model.config.eos_token_id
        completions = [_cut(row, eos) for row in output[:, width:].tolist()]
        logprobs = self.policy.logprobs(list(zip(rendered, completions, strict=True)))
        rollouts = [
            Rollout(prompt, completion, self._decode(completion), values, self.model, len(completion) == max_tokens)
            for prompt, completion, values in zip(rendered, completions, logprobs, strict=True)
        ]
        return [rollouts[i : i + n] for i in range(0, len(rollouts), n)]

    @torch.no_grad()
    def measure_entropy(self, seed: int) -> EntropyEstimate:
        groups = self.sample(self.probes, n=1, max_tokens=self._max_tokens, temperature=1.0, seed=seed)
        sequences = [(rollout.prompt_ids, rollout.token_ids) for group in groups for rollout in group]
        batch = TokenBatch.build(sequences, self.policy.device)
        _, entropy_T = chunked_logprobs(self.policy.hidden(batch), self.policy.head_VD, batch.targets_T)
        mean = float(entropy_T.mean())
        self.entropies.append(mean)
        by_sequence = [float(part.mean()) for part in entropy_T.split([len(c) for _, c in sequences])]
        half = 2 * statistics.stdev(by_sequence) / len(by_sequence) ** 0.5
        return EntropyEstimate(
            mean=mean, low=mean - half, high=mean + half, tokens=len(entropy_T), sequences=len(sequences)
        )


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


def _cut(ids: list[int], eos: int | list[int] | None) -> list[int]:
    stops = {eos} if isinstance(eos, int) else set(eos or [])
    for index, token in enumerate(ids):
        if token in stops:
            return ids[: index + 1]
    return ids
