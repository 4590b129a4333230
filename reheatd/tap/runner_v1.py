"""The entropy tap's rows in vLLM's V1 model runner, which has them by place in the batch, with the lists of output."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from reheatd.tap.row_entropy import RowEntropies
from reheatd.tap.sequences import Sequence, Sequences, before_each_step

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput


@dataclass
class _Pending:
    """A row of the last step, of which is not known yet whether its token is kept.

    The tokens of a partial prefill are sampled but not kept.
    """

    sequence: Sequence
    output_ids: list[int]
    """vLLM's own list of the sequence's output, which grows."""
    position: int
    entropy: float


class BatchRows:
    """The rows of the V1 runner.

    Args:
        runner: The class of the model runner.
    """

    def __init__(self, runner: type) -> None:
        self._sequences = Sequences()
        self._pending: list[_Pending] = []
        self._entropies_of = RowEntropies()
        self._runner: Any = None
        before_each_step(runner, "_update_states", self._begin_step)

    def see(self, logits_BV: torch.Tensor) -> None:
        if not self._sequences:
            return
        entropies = self._entropies_of(logits_BV).tolist()
        for request, entropy in zip(self._runner.input_batch.req_ids, entropies, strict=False):
            sequence = self._sequences.get(request)
            if sequence is not None:
                output_ids = self._runner.requests[request].output_token_ids
                self._pending.append(_Pending(sequence, output_ids, len(output_ids), entropy))

    def _begin_step(self, runner: Any, scheduled: "SchedulerOutput") -> None:
        self._runner = runner
        for row in self._pending:
            if len(row.output_ids) > row.position:
                row.sequence.put(row.position, row.entropy)
        self._pending.clear()
        self._sequences.step(scheduled)
