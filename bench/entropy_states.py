"""States that a policy visits, with the exact entropy of each and the logprobs that a server would return."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList

from reheatd.entropy.probes import ProbeSet


@dataclass(frozen=True)
class States:
    """Sampled sequences, in nats; arrays whose names end in T have one entry per token."""

    exact_T: np.ndarray
    sampled_T: np.ndarray
    """Logprob of the sampled token."""
    top_TK: np.ndarray
    """The k largest logprobs, in descending order."""
    sequence_T: np.ndarray
    probe_S: np.ndarray
    """Index of the prompt that each sequence answers."""

    @property
    def sequences(self) -> int:
        return len(self.probe_S)

    def split(self, values_T: np.ndarray) -> list[np.ndarray]:
        """The values of each sequence."""
        return np.split(values_T, np.flatnonzero(np.diff(self.sequence_T)) + 1)

    def of_sequences(self, start: int, stop: int) -> "States":
        chosen_T = (self.sequence_T >= start) & (self.sequence_T < stop)
        return States(
            self.exact_T[chosen_T],
            self.sampled_T[chosen_T],
            self.top_TK[chosen_T],
            self.sequence_T[chosen_T] - start,
            self.probe_S[start:stop],
        )


class _Watch(LogitsProcessor):
    """Keeps the distributions that tokens are drawn from, with logits rounded to bfloat16 as in the engine.

    The rounding causes ties at the edge of the top k.
    """

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self._logprobs_SV: torch.Tensor | None = None
        self.exact: list[torch.Tensor] = []
        self.top: list[torch.Tensor] = []
        self.sampled: list[torch.Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.take(input_ids[:, -1])
        rounded_SV = scores.bfloat16().float()
        logprobs_SV = rounded_SV.log_softmax(-1)
        self.exact.append(-(logprobs_SV.exp() * logprobs_SV).sum(-1, dtype=torch.float64))
        self.top.append(logprobs_SV.topk(self._top_k).values)
        self._logprobs_SV = logprobs_SV
        return rounded_SV

    def take(self, tokens_S: torch.Tensor) -> None:
        """Takes the tokens that were drawn from the distributions seen last."""
        if self._logprobs_SV is not None:
            self.sampled.append(self._logprobs_SV.gather(-1, tokens_S[:, None])[:, 0])


def sample_states(
    model_path: Path, probes: ProbeSet, *, rounds: int, max_tokens: int, top_k: int, seed: int = 0
) -> States:
    """Answers every probe `rounds` times at temperature 1, in float32."""
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(model_path, padding_side="left")
    asked = tokenizer.apply_chat_template(
        [list(probe) for probe in probes.probes],
        add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    stop_ids = {model.generation_config.eos_token_id, tokenizer.eos_token_id}
    torch.manual_seed(seed)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for done in range(1, rounds + 1):
        watch = _Watch(top_k)
        ids = model.generate(
            **asked, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=max_tokens,
            logits_processor=LogitsProcessorList([watch]), pad_token_id=tokenizer.pad_token_id,
        )[:, asked["input_ids"].shape[1] :]  # fmt: skip
        watch.take(ids[:, len(watch.sampled)])
        exact_ST, sampled_ST = torch.stack(watch.exact, 1), torch.stack(watch.sampled, 1)
        top_STK = torch.stack(watch.top, 1)
        for row, tokens in enumerate(ids.tolist()):
            length = next((place + 1 for place, token in enumerate(tokens) if token in stop_ids), len(tokens))
            rows.append(
                (exact_ST[row, :length].numpy(), sampled_ST[row, :length].numpy(), top_STK[row, :length].numpy())
            )
        print(f"sampling states: round {done} of {rounds}", flush=True)
    return States(
        exact_T=np.concatenate([row[0] for row in rows]),
        sampled_T=np.concatenate([row[1] for row in rows]).astype(np.float64),
        top_TK=np.concatenate([row[2] for row in rows]).astype(np.float64),
        sequence_T=np.repeat(np.arange(len(rows)), [len(row[0]) for row in rows]),
        probe_S=np.tile(np.arange(len(probes)), rounds),
    )
