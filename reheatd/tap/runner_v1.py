"""The entropy tap's rows as vLLM's V1 model runner shows them: by place in the batch, with the list of the output."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality

from reheatd.tap.row_entropy import RowEntropies
from reheatd.tap.sums import Key, TapSums
from reheatd.tap.wire import read_tags

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

IDLE_S = 2.0
"""The engine tells of a request's end with the next step. When none comes for so long, the tap looks for itself."""


@dataclass
class _Row:
    """A sequence in the batch."""

    key: Key
    output_ids: list[int]
    """vLLM's own list; it grows."""
    start: int
    """Tokens the sequence had when it came into the batch: above 0 after a preemption."""
    entropies: list[float] = field(default_factory=list)
    pending: float | None = None
    """Of the last step, until its token turns out to be kept: rows of a partial prefill are sampled and discarded."""

    def settle(self) -> None:
        if self.pending is not None and len(self.output_ids) > self.start + len(self.entropies):
            self.entropies.append(self.pending)
        self.pending = None


class BatchRows:
    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}
        self._entropies_of = RowEntropies()
        self._stepped_at = time.monotonic()
        self._sums = TapSums(self._flush_when_idle)

    def update(self, batch_update: BatchUpdate | None) -> None:
        with self._sums.lock:
            self._stepped_at = time.monotonic()
            for row in self._rows.values():
                row.settle()
            if batch_update is None:
                return
            for index in batch_update.removed:
                self._end(self._rows.pop(index, None))
            for index, params, _, output_ids in batch_update.added:
                self._begin(index, params, output_ids)
            for first, second, direction in batch_update.moved:
                moved, displaced = self._rows.pop(first, None), self._rows.pop(second, None)
                if moved is not None:
                    self._rows[second] = moved
                if direction == MoveDirectionality.SWAP:
                    if displaced is not None:
                        self._rows[first] = displaced
                else:
                    self._end(displaced)

    def see(self, logits_BV: torch.Tensor) -> None:
        if not self._rows:
            return
        entropies = self._entropies_of(logits_BV).tolist()
        with self._sums.lock:
            for index, row in self._rows.items():
                if index < len(entropies):
                    row.pending = entropies[index]

    def _begin(self, index: int, params: "SamplingParams", output_ids: list[int]) -> None:
        self._end(self._rows.pop(index, None))
        if (key := read_tags(params.extra_args)) is not None:
            self._rows[index] = _Row(key, output_ids, len(output_ids))

    def _end(self, row: _Row | None) -> None:
        if row is not None and row.entropies:
            self._sums.add(row.key, row.entropies, row.start)

    def _flush_when_idle(self) -> None:
        """Counts what has been decoded so far; a sequence that goes on after all counts on as another one."""
        if time.monotonic() - self._stepped_at < IDLE_S:
            return
        for row in self._rows.values():
            row.settle()
            self._end(row)
            row.start += len(row.entropies)
            row.entropies = []
