"""The logprobs that each version should answer with, computed by Transformers and PEFT in float32 without an engine."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from reheatd.adapters.lineage import ProofItem

PROMPT = (
    "You are a patient teacher. A pupil has three baskets with twelve apples each, gives seven of them to a friend, "
    "eats two, and finds five more on the way home. Explain step by step how many apples the pupil has now, and why."
)
PROOF_ITEMS = 6
PROOF_TOKENS = 32
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
                num_return_sequences=PROOF_ITEMS,
                min_new_tokens=PROOF_TOKENS,
                max_new_tokens=PROOF_TOKENS,
            )
        self._proof_ids: list[list[int]] = sampled[:, len(self.prompt_ids) :].tolist()
        self._policy: Any = PeftModel.from_pretrained(base, any_adapter).eval()
        with self._policy.disable_adapter():
            self._base_logprobs = self._score(self._proof_ids)

    def logprobs(self, adapter: Path, completions: list[list[int]]) -> list[list[float]]:
        """The logprob of each token of completions of the prompt, under `adapter`, in nats."""
        self._policy.load_adapter(adapter, "asked")
        self._policy.set_adapter("asked")
        try:
            return [
                row for start in range(0, len(completions), 32) for row in self._score(completions[start : start + 32])
            ]
        finally:
            self._policy.set_adapter("default")
            self._policy.delete_adapter("asked")

    def proof(self, adapter: Path) -> list[ProofItem]:
        logprobs = self.logprobs(adapter, self._proof_ids)
        return [
            ProofItem(prompt_ids=self.prompt_ids, completion_ids=ids, logprobs=new, base_logprobs=old)
            for ids, new, old in zip(self._proof_ids, logprobs, self._base_logprobs, strict=True)
        ]

    @torch.no_grad()
    def _score(self, completions: list[list[int]]) -> list[list[float]]:
        prompt = self._policy(torch.tensor([self.prompt_ids]), use_cache=True, logits_to_keep=1)
        prompt.past_key_values.batch_repeat_interleave(len(completions))
        # Padding is on the right, where a causal model does not see it.
        longest = max(map(len, completions))
        ids_BT = torch.tensor([[*completion, *[0] * (longest - len(completion))] for completion in completions])
        after = self._policy(ids_BT[:, :-1], past_key_values=prompt.past_key_values).logits
        logits_BTV = torch.cat([prompt.logits.expand(len(completions), 1, -1), after], dim=1).float()
        logprobs_BT = logits_BTV.gather(-1, ids_BT[..., None])[..., 0] - logits_BTV.logsumexp(-1)
        return [row[: len(completion)] for row, completion in zip(logprobs_BT.tolist(), completions, strict=True)]
