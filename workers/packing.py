"""Sequences in one row without padding, for the training pass.

All sequences of a micro-batch lie one behind the other in one row, so every layer but attention computes real tokens
only. Attention is computed sequence by sequence, never between two of them, and sequences of similar length go into one
call. A prompt that several sequences share is in the row once: attention takes its queries, keys and values for each of
these sequences, and autograd sums their gradients.

On a CPU there is nothing better than calls per sequence. One call with a block-diagonal mask computes all pairs of the
row, which takes 4 to 80 times as long for 4,096 tokens; for nested tensors torch has no causal kernel there, and its
flex attention has no backward pass.

Axes: N positions of the row, B sequences of one call, L their longest, H heads, K heads of keys and values, d width of
a head, T completion tokens, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from workers.shared_prompts import Sequences, sharing_pays

NAME = "reheatd_packed"
"""Name of this attention among those of transformers. Without a pack it is transformers' `sdpa`."""
LEAST_FILL = 0.75
"""Sequences go into one call of attention with a longer one from this share of its length on."""
SHORT = 64
"""Sequences of at most this many tokens always do, because a call takes longer than their padding."""


@dataclass(frozen=True)
class Pack:
    """Sequences in one row, of which each is a prompt and a completion without its last token."""

    ids_N: Tensor
    positions_N: Tensor
    """Position of every token in its own sequence."""
    rows: list[Tensor | slice]
    """For each call of attention, the place in the row of each position of its sequences, [B, L]. A slice stands for
    one sequence that lies in one piece. Padding is on the right, where causal attention never sees it."""
    output_N: Tensor | None
    """Where the output of each position is among those of all calls; None if they are in order."""
    state_T: Tensor
    """The position that predicts each completion token."""
    shares_prompts: bool

    @classmethod
    def build(cls, sequences: Sequences, device: torch.device) -> "Pack":
        """Packs pairs of prompt ids and completion ids. Prompts are in the row once where that saves enough."""
        shares = sharing_pays(sequences)
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i][0]) + len(sequences[i][1]), reverse=True)
        ids: list[int] = []
        positions: list[int] = []
        starts: dict[Any, int] = {}
        """Where each prompt begins in the row."""
        pieces: dict[int, tuple[range, range]] = {}
        """Where the prompt and the completion of each sequence are in the row."""
        for index in order:
            prompt, completion = sequences[index]
            key = tuple(prompt) if shares else index
            if key not in starts:
                starts[key] = len(ids)
                ids += prompt
                positions += range(len(prompt))
            start = len(ids)
            ids += completion[:-1]
            positions += range(len(prompt), len(prompt) + len(completion) - 1)
            pieces[index] = range(starts[key], starts[key] + len(prompt)), range(start, len(ids))
        calls = _calls([pieces[index] for index in order])
        places = [place for call in calls for row in _padded(call) for place in row]
        first: dict[int, int] = {}
        for output, place in enumerate(places):
            first.setdefault(place, output)
        output = [first[place] for place in range(len(ids))]
        state = [
            place
            for prompt, completion in (pieces[index] for index in range(len(sequences)))
            for place in (prompt[-1], *completion)
        ]
        return cls(
            ids_N=torch.tensor(ids, device=device),
            positions_N=torch.tensor(positions, device=device),
            rows=[_slice(call) or torch.tensor(_padded(call), device=device) for call in calls],
            output_N=None if output == list(range(len(places))) else torch.tensor(output, device=device),
            state_T=torch.tensor(state, device=device),
            shares_prompts=shares,
        )

    def run(self, base_model: Any, **options: Any) -> Any:
        """The output of a model for which `can_pack` holds, whose states are [1, N, D].

        The mask stands for no mask: transformers passes on what has four axes, and would otherwise build one of [N, N].
        """
        no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.ids_N.device)
        return base_model(
            input_ids=self.ids_N[None],
            position_ids=self.positions_N[None],
            attention_mask=no_mask,
            use_cache=False,
            pack=self,
            **options,
        )


def can_pack(model: PreTrainedModel) -> bool:
    """Whether the model computes a token from its position and from attention to earlier tokens, by torch's `sdpa`."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    has_attention = _layers_are(model, DynamicLayer, DynamicSlidingWindowLayer)
    is_known = has_attention and kinds <= {"full_attention", "sliding_attention"}
    return is_known and model._supports_attention_backend and config._attn_implementation in ("sdpa", NAME)


def sees_whole_past(model: PreTrainedModel) -> bool:
    """Whether all of the model's layers attend to all earlier tokens."""
    return _layers_are(model, DynamicLayer)


def use_packed_attention(model: PreTrainedModel) -> None:
    """Lets the model's layers take packs, besides all that they take already."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _layers_are(model: PreTrainedModel, *kinds: type) -> bool:
    """Whether each of the model's layers keeps one of these kinds of cache."""
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) in kinds for layer in layers)


def _calls(pieces: Sequence[tuple[range, range]]) -> list[list[list[int]]]:
    """The places of all positions of the sequences, longest first, for each call of attention."""
    calls: list[list[list[int]]] = []
    seen: set[range] = set()
    for prompt, completion in pieces:
        if not completion and prompt in seen:
            continue  # nothing but a shared prompt, which the sequences before have computed
        seen.add(prompt)
        row = [*prompt, *completion]
        longest = len(calls[-1][0]) if calls else 0
        if len(row) >= LEAST_FILL * longest > 0 or 0 < longest <= SHORT:
            calls[-1].append(row)
        else:
            calls.append([row])
    return calls


def _padded(call: Sequence[Sequence[int]]) -> list[list[int]]:
    """The rows in the length of the first; what pads a row is its first place again."""
    return [[*row, *[row[0]] * (len(call[0]) - len(row))] for row in call]


def _slice(call: Sequence[Sequence[int]]) -> slice | None:
    """The place of a call's only sequence, if it lies in one piece."""
    row = call[0]
    return slice(row[0], row[-1] + 1) if len(call) == 1 and row[-1] - row[0] == len(row) - 1 else None


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    pack: Pack | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention as transformers calls it: queries [., H, ., d], keys and values [., K, ., d]."""
    if pack is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, sliding_window=sliding_window, **options
        )
    outputs_XHd = []
    for rows in pack.rows:
        q_BHLd, k_BKLd, v_BKLd = (_take(states, rows) for states in (query, key, value))
        if sliding_window is None or q_BHLd.shape[2] <= sliding_window:
            output_BLHd, _ = sdpa_attention_forward(module, q_BHLd, k_BKLd, v_BKLd, None, **options)
        else:
            output_BLHd = _in_window(module, q_BHLd, k_BKLd, v_BKLd, sliding_window, **options)
        outputs_XHd.append(output_BLHd.flatten(0, 1))
    output_XHd = torch.cat(outputs_XHd)
    return (output_XHd if pack.output_N is None else _gather(output_XHd, pack.output_N))[None], None


def _in_window(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, window: int, **options: Any
) -> Tensor:
    """Attention to the last `window` tokens, [B, L, H, d], in blocks of queries that see at most 2 x window keys."""
    length, place_L = query.shape[2], torch.arange(query.shape[2], device=query.device)
    blocks = []
    for start in range(0, length, window):
        stop, first = min(start + window, length), max(0, start - window + 1)
        distance = place_L[start:stop, None] - place_L[first:stop]
        mask = (distance >= 0) & (distance < window)
        seen = key[:, :, first:stop], value[:, :, first:stop]
        blocks.append(sdpa_attention_forward(module, query[:, :, start:stop], *seen, mask[None, None], **options)[0])
    return torch.cat(blocks, dim=1)


def _take(states: Tensor, rows: Tensor | slice) -> Tensor:
    """The states [1, H, N, d] of these places, [B, H, L, d]."""
    if isinstance(rows, slice):
        return states[:, :, rows]
    return _gather(states[0].transpose(0, 1), rows).transpose(1, 2)


def _gather(states_NHd: Tensor, index: Tensor) -> Tensor:
    """The states at these places. An embedding does this, because the gradient of plain indexing is slow on a CPU."""
    return torch.nn.functional.embedding(index, states_NHd.flatten(1)).unflatten(-1, states_NHd.shape[1:])
