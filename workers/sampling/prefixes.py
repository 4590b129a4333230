"""The prefixes of the sequences that are being decoded, each of which the model computes once.

Completions of one prompt share the prompt, and often their first tokens as well: the lower the entropy, the more of
them. Equal prefixes have equal hidden states, keys and values. Prefixes of sequences that have ended are dropped.

Axes: B sequences, A sequences that have not ended, R distinct prefixes, L positions, D hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.sampling.decoders import Decoder


class Prefixes:
    """Prompts with the tokens that were decoded so far."""

    hidden_RD: Tensor
    """Hidden state at the end of every prefix."""
    row_B: Tensor
    """The prefix of every sequence; for sequences that have ended, any one."""

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        """Computes the prompts; shorter ones are padded on the left."""
        rows: dict[tuple[int, ...], int] = {}
        self._decoder = decoder
        self.row_B = torch.tensor([rows.setdefault(tuple(prompt), len(rows)) for prompt in prompts], device=device)
        self._length = max(map(len, rows))
        padding = [self._length - len(prompt) for prompt in rows]
        ids_RL = torch.tensor([[*[0] * pad, *prompt] for pad, prompt in zip(padding, rows, strict=True)], device=device)
        positions_RL = torch.arange(self._length, device=device)[None]
        self._pad_R: Tensor | None = None
        """Positions of padding before each prefix; None if there are none."""
        if any(padding):
            self._pad_R = torch.tensor(padding, device=device)
            positions_RL = (positions_RL - self._pad_R[:, None]).clamp(min=0)
        self.hidden_RD = decoder.decode(ids_RL, positions_RL, self._mask_RL())

    def append(self, token_B: Tensor, alive_B: Tensor, vocabulary: int) -> None:
        """Appends a token to the prefix of every sequence that is alive, at least one, and computes what is new."""
        # The keys of two sequences are equal where both prefix and token are.
        key_R, row_A = torch.unique((self.row_B * vocabulary + token_B)[alive_B], return_inverse=True)
        key_R, row_A = _repeats_last(key_R, row_A, key_R // vocabulary)
        self.row_B = torch.zeros_like(self.row_B).masked_scatter_(alive_B, row_A)
        parent_R, token_R = key_R // vocabulary, key_R % vocabulary
        if not torch.equal(parent_R, torch.arange(len(self.hidden_RD), device=parent_R.device)):
            self._decoder.select(parent_R)
            self._pad_R = None if self._pad_R is None else self._pad_R[parent_R]
        position_R1 = torch.full_like(parent_R[:1], self._length)[None]
        if self._pad_R is not None:
            position_R1 = self._length - self._pad_R[:, None]
        self._length += 1
        self.hidden_RD = self._decoder.decode(token_R[:, None], position_R1, self._mask_RL())

    def _mask_RL(self) -> Tensor | None:
        """1 for every token of a prefix and 0 for padding; None without padding."""
        if self._pad_R is None:
            return None
        return (torch.arange(self._length, device=self._pad_R.device) >= self._pad_R[:, None]).long()


def _repeats_last(key_R: Tensor, row_A: Tensor, parent_R: Tensor) -> tuple[Tensor, Tensor]:
    """Moves all but the first of equal parents, which are sorted, to the end: the others then keep their places."""
    repeats_R = torch.zeros_like(parent_R, dtype=torch.bool)
    torch.eq(parent_R[1:], parent_R[:-1], out=repeats_R[1:])
    order_R = torch.cat([(~repeats_R).nonzero()[:, 0], repeats_R.nonzero()[:, 0]])
    place_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))
    return key_R[order_R], place_R[row_A]
