"""The model as sampling uses it: one row for every prefix, with its keys and values kept, and the adapter merged.

Axes: R rows, N new positions, L all positions, D hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor
from transformers import DynamicCache

from workers.policy import Policy
from workers.sampling.llama_decoder import LlamaDecoder, LlamaWeights


class Decoder(Protocol):
    def decode(self, ids_RN: Tensor, positions_RN: Tensor, mask_RL: Tensor | None) -> Tensor:
        """Adds positions to every row, and returns the hidden state after the final norm at the last one, [R, D].

        Args:
            positions_RN: Positions of the new tokens; one row, if they are the same for all.
            mask_RL: 1 for every real token, old and new, and 0 for padding on the left; None if there is no padding.
        """
        ...

    def select(self, rows_R: Tensor) -> None:
        """Keeps these rows, in this order; a row may be there several times.

        It is cheapest if all rows stay where they are and the repeated ones come behind them.
        """
        ...


class Decoders:
    """Makes decoders of a policy, whose base must not change."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._llama: LlamaWeights | None = None

    @contextmanager
    def merged(self) -> Iterator[Callable[[int], Decoder]]:
        """Inside the context, makes decoders of the policy in the role that it has: student, teacher or base.

        What makes them is told the largest number of rows that they will have.

        Where Llama's decoder computes, the memory of the merged weights is kept for the next time.
        """
        if self._llama is None and LlamaWeights.can_hold(self._policy.model):
            self._llama = LlamaWeights(self._policy.model)
        if (weights := self._llama) is not None:
            weights.merge()
            yield lambda most_rows: LlamaDecoder(weights, most_rows)
        else:
            with self._policy.merged():
                yield lambda _: _TransformersDecoder(self._policy)


class _TransformersDecoder:
    """Decodes with any model of transformers."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._cache = DynamicCache()

    def decode(self, ids_RN: Tensor, positions_RN: Tensor, mask_RL: Tensor | None) -> Tensor:
        return self._policy.decode_step(ids_RN, positions_RN, mask_RL, self._cache)

    def select(self, rows_R: Tensor) -> None:
        for layer in self._cache.layers:
            layer.reorder_cache(rows_R)  # pyright: ignore[reportArgumentType]
