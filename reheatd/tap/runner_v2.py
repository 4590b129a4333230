"""The entropy tap's rows in vLLM's V2 model runner, which shows them by request slot, without and ahead of the output.

The runner may compute a step before the tokens of the last one are known. So nothing here waits for the accelerator:
each step's entropies are copied to the host in the background, and taken in when they have arrived. When the scheduler
knows that a sequence has ended, the entropies of its tokens have arrived.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reheatd.tap.row_entropy import RowEntropies
from reheatd.tap.sequences import Sequence, Sequences, before_each_step

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

STEPS_IN_FLIGHT = 2
"""Number of steps that may be on their way; the runner is never further ahead."""


@dataclass
class _Step:
    """A step whose entropies are on their way to the host."""

    rows: list[tuple[int, int, Sequence]]
    """For each row, its place in the step, the position of its token in the sequence, and the sequence."""
    values_B2: torch.Tensor
    """For each row, its entropy and the token from which it was computed."""
    arrived: torch.Event | None
    """Event of the arrival of the values; None if they have arrived already."""


class SlotRows:
    """The rows of the V2 runner.

    Args:
        runner: The class of the model runner.
        requests: State of the requests in the runner's slots.
    """

    def __init__(self, runner: type, requests: "LogitsProcRequestState") -> None:
        self._requests = requests
        self._request_of: Mapping[int, str] = {}
        self._on_host = requests.device.type == "cpu"
        self._steps: deque[_Step] = deque()
        self._entropies_of = RowEntropies()
        self._sequences = Sequences(leave_out=penalised)
        before_each_step(runner, "finish_requests", self._begin_step)

    def counts(self, params: "SamplingParams") -> bool:
        """Whether a request with these parameters is counted."""
        return self._sequences.counts(params)

    def see(self, logits_BV: torch.Tensor, step: "LogitsContext") -> None:
        lengths_B: np.ndarray = step.seq_lens_upper_bound_np
        rows: list[tuple[int, int, Sequence]] = []
        for index, slot in enumerate(step.idx_mapping_np.tolist()):
            sequence = self._sequences.get(self._request_of.get(slot))
            if sequence is not None and lengths_B[index] >= self._requests.prefill_len.np[slot]:
                rows.append((index, int(lengths_B[index] - self._requests.prompt_len.np[slot]), sequence))
        if not rows:
            return
        found_B2 = torch.stack((self._entropies_of(logits_BV).double(), step.input_ids.double()), dim=1)
        values_B2 = torch.empty(found_B2.shape, dtype=found_B2.dtype, pin_memory=not self._on_host)
        values_B2.copy_(found_B2, non_blocking=True)
        arrived = None
        if not self._on_host:
            arrived = torch.Event()
            arrived.record()
        self._steps.append(_Step(rows, values_B2, arrived))

    def _begin_step(self, runner: Any, scheduled: "SchedulerOutput") -> None:
        self._request_of = runner.req_states.index_to_req_id
        while self._steps and (len(self._steps) > STEPS_IN_FLIGHT or _is_here(self._steps[0])):
            _take_in(self._steps.popleft())
        self._sequences.step(scheduled)


def penalised(params: "SamplingParams") -> bool:
    """Whether a request has penalties, which this runner applies to the logits before it shows them."""
    return bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1)


def _is_here(step: _Step) -> bool:
    return step.arrived is None or step.arrived.query()


def _take_in(step: _Step) -> None:
    if step.arrived is not None:
        step.arrived.synchronize()
    values = step.values_B2.tolist()
    for index, position, sequence in step.rows:
        entropy, token = values[index]
        # A row that was computed from a token that ends the sequence was computed in advance, and is not used.
        if position == 0 or int(token) not in sequence.stops:
            sequence.put(position, entropy)
