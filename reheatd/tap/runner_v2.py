"""The entropy tap's rows as vLLM's V2 model runner shows them: by request slot, without the output, and ahead of it.

The runner may compute a step before the last one's tokens are known, so nothing here waits for the accelerator: each
step's entropies are copied to the host on the side and counted two steps later. The runner says of every row whether
its prompt is complete, but not when a request ends: what a slot held counts when the slot is taken again, or once it
has been quiet for a while.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from vllm.distributed import get_tensor_model_parallel_rank

from reheatd.tap.row_entropy import RowEntropies
from reheatd.tap.sums import Key, TapSums
from reheatd.tap.wire import read_tags

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

QUIET_S = 2.0
STEPS_IN_FLIGHT = 2


@dataclass
class _Row:
    """A sequence in a slot."""

    key: Key
    stops: frozenset[int]
    """Tokens that end the sequence: a row computed from one of them was computed in advance, for nothing."""
    start: int = 0
    """Position of the first of `entropies`."""
    entropies: list[float] = field(default_factory=list)
    stepped_at: float = 0.0


@dataclass
class _Step:
    """A step whose entropies are on their way."""

    rows: list[tuple[int, int, _Row]]
    """Place in the step, position of the token in the sequence, and the sequence."""
    values_B2: torch.Tensor
    """Entropy, and the token the row was computed from."""
    arrived: torch.Event
    ended: list[_Row] = field(default_factory=list)
    """Sequences that this step was the last to see."""


class SlotRows:
    """The rows of the V2 runner.

    Raises:
        ValueError: With speculative decoding, whose rows may be drafts that are rejected later.
    """

    def __init__(self, vllm_config: "VllmConfig", requests: "LogitsProcRequestState") -> None:
        if vllm_config.speculative_config is not None:
            raise ValueError("the entropy tap cannot be loaded beside speculative decoding; leave one of them out")
        self._requests = requests
        # Ranks of tensor parallelism see the same rows, unless each samples its own.
        shares = vllm_config.parallel_config.enable_batch_sharded_sampling
        self._counts = bool(shares) or get_tensor_model_parallel_rank() == 0
        self._pins = requests.device.type != "cpu"
        self._rows: dict[int, _Row] = {}
        self._steps: deque[_Step] = deque()
        self._stepped_at = time.monotonic()
        self._entropies_of = RowEntropies()
        self._sums = TapSums(self._count_quiet)

    def begin(self, slot: int, params: "SamplingParams") -> bool:
        """Whether the sequence that takes `slot` is counted.

        One with penalties is not: this runner shows its logits after them.
        """
        with self._sums.lock:
            before = self._rows.pop(slot, None)
            if before is not None:
                if self._steps:
                    self._steps[-1].ended.append(before)
                else:
                    self._count(before)
            key = read_tags(params.extra_args)
            penalised = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1
            if key is None or penalised or not self._counts:
                return False
            stops = {*(params.stop_token_ids or ())}
            if params.eos_token_id is not None:
                stops.add(params.eos_token_id)
            self._rows[slot] = _Row(key, frozenset(stops))
            return True

    def see(self, logits_BV: torch.Tensor, step: "LogitsContext") -> None:
        now = time.monotonic()
        lengths_B: np.ndarray = step.seq_lens_upper_bound_np
        rows: list[tuple[int, int, _Row]] = []
        with self._sums.lock:
            self._stepped_at = now
            for index, slot in enumerate(step.idx_mapping_np.tolist()):
                row = self._rows.get(slot)
                if row is not None and lengths_B[index] >= self._requests.prefill_len.np[slot]:
                    row.stepped_at = now
                    rows.append((index, int(lengths_B[index] - self._requests.prompt_len.np[slot]), row))
        if not rows:
            return
        found_B2 = torch.stack((self._entropies_of(logits_BV).double(), step.input_ids.double()), dim=1)
        values_B2 = torch.empty(found_B2.shape, dtype=found_B2.dtype, pin_memory=self._pins)
        values_B2.copy_(found_B2, non_blocking=True)
        arrived = torch.Event()
        arrived.record()
        with self._sums.lock:
            self._steps.append(_Step(rows, values_B2, arrived))
            self._settle(STEPS_IN_FLIGHT)

    def _settle(self, in_flight: int) -> None:
        """Takes in all steps but the newest `in_flight`."""
        while len(self._steps) > in_flight:
            step = self._steps.popleft()
            step.arrived.synchronize()
            values = step.values_B2.tolist()
            for index, position, row in step.rows:
                entropy, token = values[index]
                if position > 0 and int(token) in row.stops:
                    continue
                if not row.entropies:
                    row.start = position
                row.entropies.append(entropy)
            for row in step.ended:
                self._count(row)

    def _count(self, row: _Row) -> None:
        if row.entropies:
            self._sums.add(row.key, row.entropies, row.start)
            row.entropies = []

    def _count_quiet(self) -> None:
        """Counts the sequences that have ended, it seems; one that goes on after all counts on as another one."""
        now = time.monotonic()
        if now - self._stepped_at > QUIET_S:
            self._settle(0)
        for row in self._rows.values():
            if now - row.stepped_at > QUIET_S:
                self._count(row)
