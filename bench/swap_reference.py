"""The logprobs that each version should answer with, computed by Transformers and PEFT in float32 without an engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from reheatd.adapters.lineage import ProofItem
from workers.proof import COMPLETION_TOKENS, ITEMS, proof_sequences

PROMPT = (
    "You are a patient teacher. A pupil has three baskets with twelve apples each, gives seven of them to a friend, "
    "eats two, and finds five more on the way home. Explain step by step how many apples the pupil has now, and why."
)
BATCH = 32


class Reference:
    """The policy, with any of the adapters.

    Args:
        model: Folder of the policy.
        any_adapter: An adapter with the shape of all that follow.
    """

    def __init__(self, model: Path, any_adapter: Path) -> None:
        torch.manual_seed(0)
        base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.prompt_ids: list[int] = AutoTokenizer.from_pretrained(model)(PROMPT)["input_ids"]
        with torch.no_grad():
            sampled = base.generate(
                torch.tensor([self.prompt_ids]),
                do_sample=True,
                top_k=0,
                num_return_sequences=ITEMS,
                min_new_tokens=COMPLETION_TOKENS,
                max_new_tokens=COMPLETION_TOKENS,
            )
        rollouts = [(self.prompt_ids, row) for row in sampled[:, len(self.prompt_ids) :].tolist()]
        self._proof = proof_sequences(rollouts)
        self._policy: Any = PeftModel.from_pretrained(base, any_adapter).eval()
        with self._policy.disable_adapter():
            self._base_logprobs = self._proof_logprobs()

    def logprobs(self, adapter: Path, completions: list[list[int]]) -> list[list[float]]:
        """The logprob of each token of completions of the prompt, under `adapter`, in nats."""
        with self._with(adapter):
            return [
                row
                for start in range(0, len(completions), BATCH)
                for row in self._score(self.prompt_ids, completions[start : start + BATCH])
            ]

    def proof(self, adapter: Path) -> list[ProofItem]:
        """The items that a job would hand over with `adapter`."""
        with self._with(adapter):
            logprobs = self._proof_logprobs()
        return [
            ProofItem(prompt_ids=prompt, completion_ids=completion, logprobs=new, base_logprobs=old)
            for (prompt, completion), new, old in zip(self._proof, logprobs, self._base_logprobs, strict=True)
        ]

    @contextmanager
    def _with(self, adapter: Path) -> Iterator[None]:
        self._policy.load_adapter(adapter, "asked")
        self._policy.set_adapter("asked")
        try:
            yield
        finally:
            self._policy.set_adapter("default")
            self._policy.delete_adapter("asked")

    def _proof_logprobs(self) -> list[list[float]]:
        grouped = groupby(self._proof, key=lambda sequence: sequence[0])  # sequences with one prompt stand together
        return [row for prompt, group in grouped for row in self._score(prompt, [ids for _, ids in group])]

    @torch.no_grad()
    def _score(self, prompt_ids: list[int], completions: list[list[int]]) -> list[list[float]]:
        prompt = self._policy(torch.tensor([prompt_ids]), use_cache=True, logits_to_keep=1)
        prompt.past_key_values.batch_repeat_interleave(len(completions))
        # Padding is on the right, where a causal model does not see it.
        longest = max(map(len, completions))
        ids_BT = torch.tensor([[*completion, *[0] * (longest - len(completion))] for completion in completions])
        after = self._policy(ids_BT[:, :-1], past_key_values=prompt.past_key_values).logits
        logits_BTV = torch.cat([prompt.logits.expand(len(completions), 1, -1), after], dim=1).float()
        logprobs_BT = logits_BTV.gather(-1, ids_BT[..., None])[..., 0] - logits_BTV.logsumexp(-1)
        return [row[: len(completion)] for row, completion in zip(logprobs_BT.tolist(), completions, strict=True)]
