"""Samples rollouts in the trainer's own process, with transformers, for experiments and tests where no engine runs.

The sampler has the interface of `workers.sampling.served.ServedSampler`. It samples from the student as it is at that
moment, so publishing only renames the student.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from reheatd.entropy.estimators import clustered_interval
from reheatd.json_lines import Messages, Prompts
from reheatd.measures import EntropyEstimate
from workers.losses import entropy
from workers.policy import Policy
from workers.sampling.rollout import Rollout

LOGITS_ELEMENTS = 1 << 25
"""Elements of the largest [rows, V] tensor of a decoding step, which limits how many sequences are decoded at once."""
MAX_ROWS = 512


class Codec(Protocol):
    """Turns prompts into token ids, and completions into text."""

    @property
    def stop_ids(self) -> frozenset[int]: ...

    def encode(self, messages: Messages) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> str: ...


class ChatCodec:
    """The codec of a tokenizer with a chat template."""

    def __init__(self, policy: Policy) -> None:
        self._tokenizer = cast(Any, policy.tokenizer)
        self.stop_ids = policy.stop_ids

    def encode(self, messages: Messages) -> list[int]:
        return list(
            self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True).input_ids
        )

    def decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)


@dataclass
class _Completion:
    token_ids: list[int]
    logprobs: list[float]
    entropies: list[float]
    stopped: bool


class InProcessSampler:
    """Samples from a `Policy`.

    Args:
        probes: Prompts that `measure_entropy` samples.
        probe_tokens: Tokens of a probe's longest completion.
    """

    def __init__(
        self,
        policy: Policy,
        codec: Codec,
        probes: Sequence[Messages],
        *,
        probe_tokens: int = 48,
        confidence: float = 0.95,
    ) -> None:
        self.model = "in-process-0"
        self._policy = policy
        self._codec = codec
        self._probes = probes
        self._probe_tokens = probe_tokens
        self._confidence = confidence
        self._stop_ids = torch.tensor(sorted(codec.stop_ids), dtype=torch.long, device=policy.device)

    def publish(self, policy: Policy, step: int) -> None:
        self.model = f"in-process-{step}"

    def sample(
        self, prompts: Prompts, *, n: int, max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> list[list[Rollout]]:
        encoded = [ids for ids in map(self._codec.encode, prompts) for _ in range(n)]
        completions = self._complete(encoded, max_tokens, temperature, top_p, seed)
        rollouts = [
            Rollout(
                prompt_ids=prompt,
                token_ids=completion.token_ids,
                text=self._codec.decode(completion.token_ids),
                logprobs=completion.logprobs,
                model=self.model,
                truncated=not completion.stopped,
            )
            for prompt, completion in zip(encoded, completions, strict=True)
        ]
        return [rollouts[i : i + n] for i in range(0, len(rollouts), n)]

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        """Exact full-vocabulary entropy of the states visited on the probes, with an interval clustered by sequence."""
        encoded = [self._codec.encode(messages) for messages in self._probes]
        sequences = [c.entropies for c in self._complete(encoded, self._probe_tokens, 1.0, 1.0, seed)]
        return clustered_interval(sequences, self._confidence)

    def _complete(
        self, prompts: list[list[int]], max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> Iterator[_Completion]:
        generator = torch.Generator(self._policy.device).manual_seed(seed)
        rows = max(1, min(MAX_ROWS, LOGITS_ELEMENTS // self._policy.head_VD.shape[0]))
        for start in range(0, len(prompts), rows):
            yield from self._decode(prompts[start : start + rows], max_tokens, temperature, top_p, generator)

    @torch.no_grad()
    def _decode(
        self, prompts: list[list[int]], max_tokens: int, temperature: float, top_p: float, generator: torch.Generator
    ) -> list[_Completion]:
        """Decodes one batch of B sequences token by token; prompts are padded on the left."""
        policy = self._policy
        width = max(map(len, prompts))
        ids_BL = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=policy.device)
        mask_BL = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=policy.device)
        padded = any(len(p) < width for p in prompts)
        cache = DynamicCache()
        alive_B = torch.ones(len(prompts), dtype=torch.bool, device=policy.device)
        steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for _ in range(max_tokens):
            positions_BL = (mask_BL.cumsum(-1) - 1).clamp(min=0)[:, -ids_BL.shape[1] :]
            hidden_BD = policy.decode_step(ids_BL, positions_BL, mask_BL if padded else None, cache)
            logprobs_BV = torch.log_softmax((hidden_BD @ policy.head_VD.T).float(), -1)
            if temperature == 0:
                token_B = logprobs_BV.argmax(-1)
            else:
                probabilities_BV = _nucleus(torch.softmax(logprobs_BV / temperature, -1), top_p)
                token_B = torch.multinomial(probabilities_BV, 1, generator=generator).squeeze(-1)
            chosen_B = logprobs_BV.gather(-1, token_B[:, None]).squeeze(-1)
            steps.append((token_B, chosen_B, entropy(logprobs_BV), alive_B))
            alive_B = alive_B & ~torch.isin(token_B, self._stop_ids)
            if not alive_B.any():
                break
            ids_BL = token_B[:, None]
            mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(prompts), 1)], -1)
        tokens, chosen, entropies, present = (torch.stack(parts, -1).cpu() for parts in zip(*steps, strict=True))
        lengths = present.sum(-1).tolist()
        return [
            _Completion(
                tokens[row, :length].tolist(),
                chosen[row, :length].tolist(),
                entropies[row, :length].tolist(),
                stopped=not alive,
            )
            for row, (length, alive) in enumerate(zip(lengths, alive_B.tolist(), strict=True))
        ]


def _nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """Keeps the most probable tokens of each row that together hold at least `top_p`, and sets the others to 0.

    This is nucleus sampling (arXiv 1904.09751). The rows are not normalised again.
    """
    if top_p == 1:
        return probabilities_BV
    sorted_BV, order_BV = probabilities_BV.sort(-1, descending=True)
    beyond_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p  # the tokens before it hold enough
    return probabilities_BV.masked_fill(torch.zeros_like(beyond_BV).scatter(-1, order_BV, beyond_BV), 0.0)
