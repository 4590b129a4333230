"""Sampling in process as plain as it gets, which `bench.rl` and the tests compare `workers.sampling.in_process` with.

Every row of a batch computes its own prompt, every layer multiplies by its LoRA apart from its frozen weight, with
torch's own product, and rows whose completion has ended are decoded on until the last one ends.
"""

from unittest.mock import patch

import torch
from torch import Tensor
from transformers import DynamicCache

from workers import lora
from workers.losses import entropy
from workers.sampling.in_process import Completion, InProcessSampler, nucleus


class PlainSampler(InProcessSampler):
    """Draws the same tokens as `InProcessSampler` from the same seed, up to rounding."""

    def _complete(
        self, prompts: list[list[int]], max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> list[Completion]:
        generator = torch.Generator(self._policy.device).manual_seed(seed)
        completions: list[Completion] = []
        with patch.object(lora, "product", torch.nn.functional.linear):
            for chunk in self._chunks(prompts):
                completions += self._decode_plainly(chunk, max_tokens, temperature, top_p, generator)
        return completions

    @torch.no_grad()
    def _decode_plainly(
        self, prompts: list[list[int]], max_tokens: int, temperature: float, top_p: float, generator: torch.Generator
    ) -> list[Completion]:
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
                probabilities_BV = nucleus(torch.softmax(logprobs_BV / temperature, -1), top_p)
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
            Completion(
                tokens[row, :length].tolist(),
                chosen[row, :length].tolist(),
                entropies[row, :length].tolist(),
                stopped=not alive,
            )
            for row, (length, alive) in enumerate(zip(lengths, alive_B.tolist(), strict=True))
        ]
