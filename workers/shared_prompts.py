"""Prompts that several sequences share, computed once in a training pass.

The rollouts of a group begin with the same prompt. Here each distinct prompt goes through the model once. Its keys and
values, with their gradient, are repeated for every sequence that begins with it, and the completions attend to them. A
gradient is the same as in the plain pass up to rounding, because autograd sums it over the sequences of a prompt.

Prompts and completions are padded on the right, so that no real token of a prompt sees padding; a mask hides a prompt's
padding from the completions.

Axes: P distinct prompts of M positions, B sequences, C positions of completions, L = M + C, T completion tokens,
D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

Sequences = Sequence[tuple[list[int], list[int]]]
"""Pairs of prompt ids and completion ids."""

LEAST_SAVING = 1.25
"""Prompts are shared where the plain pass computes at least this many times as many positions, padding included. The
two passes of sharing cost more calls than one, and attention with a mask."""
MAX_REPEATED = 4
"""Keys and values are repeated for at most this many times the positions of a micro-batch; they take memory."""


@dataclass(frozen=True)
class SharedPrompts:
    """A batch with each distinct prompt once."""

    prompt_ids_PM: Tensor
    prompt_B: Tensor
    """The prompt of every sequence."""
    completion_ids_BC: Tensor
    """The completions without their last tokens, which predict nothing."""
    positions_BC: Tensor
    mask_BL: Tensor | None
    """0 for the padding of prompts, 1 for everything else; None if no prompt is padded."""
    state_T: Tensor
    """The state that predicts each completion token, among those of all prompts and then all completions."""

    @classmethod
    def build(cls, sequences: Sequences, device: torch.device) -> "SharedPrompts | None":
        """The batch of these sequences; None where sharing saves too little, see `LEAST_SAVING`."""
        size = _Size.of(sequences)
        if not size.pays:
            return None
        rows: dict[tuple[int, ...], int] = {}
        prompt_B = [rows.setdefault(tuple(prompt), len(rows)) for prompt, _ in sequences]
        lengths_P = torch.tensor([len(prompt) for prompt in rows])
        length_B1 = lengths_P[prompt_B][:, None]
        prompts, completions = size.prompt, size.completion
        mask_BL = None
        if len(set(lengths_P.tolist())) > 1:
            place_L = torch.arange(prompts + completions)
            mask_BL = ((place_L < length_B1) | (place_L >= prompts)).long()
        first = len(rows) * prompts
        state_T = [
            state
            for row, ((prompt, completion), shared) in enumerate(zip(sequences, prompt_B, strict=True))
            for state in (
                shared * prompts + len(prompt) - 1,
                *range(first + row * completions, first + row * completions + len(completion) - 1),
            )
        ]
        return cls(
            prompt_ids_PM=padded([list(prompt) for prompt in rows], prompts).to(device),
            prompt_B=torch.tensor(prompt_B, device=device),
            completion_ids_BC=padded([completion[:-1] for _, completion in sequences], completions).to(device),
            positions_BC=(length_B1 + torch.arange(completions)).to(device),
            mask_BL=None if mask_BL is None else mask_BL.to(device),
            state_T=torch.tensor(state_T, device=device),
        )

    def hidden(self, base_model: Any) -> Tensor:
        """The hidden states that predict the completion tokens, [T, D], from a model for which `can_share` holds."""
        cache = DynamicCache()
        states_XD = _states(base_model(input_ids=self.prompt_ids_PM, past_key_values=cache, use_cache=True))
        if self.completion_ids_BC.shape[1]:
            for layer in cache.layers:
                layer.reorder_cache(self.prompt_B)  # pyright: ignore[reportArgumentType]
            completions = base_model(
                input_ids=self.completion_ids_BC,
                position_ids=self.positions_BC,
                attention_mask=self.mask_BL,
                past_key_values=cache,
                use_cache=True,
            )
            states_XD = torch.cat([states_XD, _states(completions)])
        return states_XD.index_select(0, self.state_T)


def can_share(model: PreTrainedModel) -> bool:
    """Whether all of the model's layers attend to all earlier tokens, so that a cache of these tokens replaces them."""
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """The rows as one tensor, with zeros on the right."""
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], dtype=torch.long).view(len(rows), length)


def by_prompt(sequences: Sequences, max_positions: int) -> list[list[int]]:
    """Indices grouped so that the sequences of a prompt are together, and no group computes more than `max_positions`.

    The sequences of a prompt are in several groups if one is too small for them. A sequence that is longer than
    `max_positions` gets a group of its own.
    """
    number: dict[tuple[int, ...], int] = {}
    keys = [(len(prompt), number.setdefault(tuple(prompt), len(number)), len(rest)) for prompt, rest in sequences]
    groups: list[list[int]] = []
    size, last = _Size(), -1
    for index in sorted(range(len(keys)), key=keys.__getitem__, reverse=True):
        prompt, which, completion = keys[index]
        size = size.with_one_more(prompt, completion, is_new=which != last)
        if not groups or size.shared > max_positions or size.plain > MAX_REPEATED * max_positions:
            groups.append([])
            size = _Size().with_one_more(prompt, completion, is_new=True)
        groups[-1].append(index)
        last = which
    return groups


def computed_positions(sequences: Sequences) -> int:
    """Positions that the model computes for a micro-batch of these sequences, with or without sharing."""
    size = _Size.of(sequences)
    return size.shared if size.pays else size.plain


@dataclass(frozen=True)
class _Size:
    """How large a micro-batch is. Completions are counted without their last tokens."""

    sequences: int = 0
    prompts: int = 0
    """Number of distinct prompts."""
    prompt: int = 0
    """Length of the longest prompt."""
    completion: int = 0
    """Length of the longest completion."""
    longest: int = 0
    """Length of the longest prompt with its completion."""

    @classmethod
    def of(cls, sequences: Sequences) -> "_Size":
        size = cls()
        seen: set[tuple[int, ...]] = set()
        for prompt, completion in sequences:
            size = size.with_one_more(len(prompt), len(completion), is_new=tuple(prompt) not in seen)
            seen.add(tuple(prompt))
        return size

    def with_one_more(self, prompt: int, completion: int, *, is_new: bool) -> "_Size":
        return _Size(
            self.sequences + 1,
            self.prompts + is_new,
            max(self.prompt, prompt),
            max(self.completion, completion - 1),
            max(self.longest, prompt + completion - 1),
        )

    @property
    def plain(self) -> int:
        """Positions that the plain pass computes, padding included."""
        return self.sequences * self.longest

    @property
    def shared(self) -> int:
        """Positions that are computed with shared prompts, padding included."""
        return self.prompts * self.prompt + self.sequences * self.completion

    @property
    def pays(self) -> bool:
        return self.plain >= LEAST_SAVING * self.shared


def _states(output: Any) -> Tensor:
    return output.last_hidden_state.flatten(0, 1)
