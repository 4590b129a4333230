"""vLLM logits processor: the exact entropy of every decoded token's distribution, measured in the engine.

It changes no logit. It sees each row of a step in fp32 at temperature 1, after grammar masks and logit biases and
before penalties, and computes H = log sum exp(z) - sum softmax(z) z over the full vocabulary. Sums by version and
source are sent to the daemon by a thread of its own; see `reheatd.entropy.tap_report`.

Loaded by name (`--logits-processors`) in the engine's core process, and in the API server's, which makes none.
"""

import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor, MoveDirectionality

from reheatd.entropy.moments import Moments
from reheatd.entropy.tap_report import ADDRESS_ENV, SOURCE_ARG, VERSION_ARG, TapReport

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = logging.getLogger(__name__)

SEND_EVERY_S = 1.0
IDLE_S = 2.0
"""The engine tells of a request's end with the next step. When none comes for so long, the tap looks for itself."""
REPEAT_S = 30.0
"""Everything is sent again so often, for a daemon that was not there."""
FORGET_S = 600.0
"""Sums of a version that nobody asked for so long are dropped; it begins again at 0."""


@dataclass
class _Row:
    """A sequence in the batch."""

    key: tuple[str, str]
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


@dataclass
class _Sums:
    """Of one version and source."""

    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    moments: Moments = field(default_factory=Moments)
    changed_at: float = 0.0


class EntropyTap(LogitsProcessor):
    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool) -> None:
        host, _, port = os.environ[ADDRESS_ENV].rpartition(":")
        self._daemon = host, int(port)
        self._rows: dict[int, _Row] = {}
        self._sums: dict[tuple[str, str], _Sums] = {}
        self._stepped_at = time.monotonic()
        self._lock = threading.Lock()
        self._scratch_RV = torch.empty(0)
        threading.Thread(target=self._ship, name="entropy tap", daemon=True).start()

    def is_argmax_invariant(self) -> bool:
        """False although it changes nothing: the others are not shown greedy rows, nor logits before temperature."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        with self._lock:
            self._stepped_at = time.monotonic()
            for row in self._rows.values():
                row.settle()
            if batch_update is None:
                return
            for index in batch_update.removed:
                self._end(self._rows.pop(index, None))
            for index, params, _, output_ids in batch_update.added:
                self._end(self._rows.pop(index, None))
                args: dict[str, Any] = params.extra_args or {}
                if VERSION_ARG in args:
                    key = str(args[VERSION_ARG]), str(args.get(SOURCE_ARG, "live"))
                    self._rows[index] = _Row(key, output_ids, len(output_ids))
            for first, second, direction in batch_update.moved:
                moved, displaced = self._rows.pop(first, None), self._rows.pop(second, None)
                if moved is not None:
                    self._rows[second] = moved
                if direction == MoveDirectionality.SWAP:
                    if displaced is not None:
                        self._rows[first] = displaced
                else:
                    self._end(displaced)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self._rows:
            if self._scratch_RV.shape[-1] != logits.shape[-1]:
                self._scratch_RV = torch.empty(torch.get_num_threads(), logits.shape[-1])
            entropies = row_entropies(logits, self._scratch_RV)
            with self._lock:
                for index, row in self._rows.items():
                    if index < len(entropies):
                        row.pending = entropies[index]
        return logits

    def _end(self, row: _Row | None) -> None:
        if row is not None and row.entropies:
            sums = self._sums.setdefault(row.key, _Sums())
            sums.moments.add(row.entropies, row.start)
            sums.changed_at = time.monotonic()

    def _ship(self) -> None:
        sent_at = repeated_at = 0.0
        failed = False
        while True:
            time.sleep(SEND_EVERY_S)
            now = time.monotonic()
            with self._lock:
                if now - self._stepped_at > IDLE_S:
                    self._flush()
                for key in [key for key, sums in self._sums.items() if now - sums.changed_at > FORGET_S]:
                    del self._sums[key]
                if now - repeated_at > REPEAT_S:
                    sent_at, repeated_at = 0.0, now
                reports = [
                    TapReport(sums.run, *key, moments=sums.moments).encode()
                    for key, sums in self._sums.items()
                    if sums.changed_at > sent_at
                ]
                sent_at = now
            if not reports:
                continue
            failed_before = failed
            try:
                self._send(reports)
            except OSError as error:
                # While no daemon is there, its name may not resolve. The sums go on and are repeated.
                failed = True
                if not failed_before:
                    logger.warning("entropy tap: %s:%d cannot be reached, trying again: %s", *self._daemon, error)
            else:
                failed = False

    def _send(self, reports: list[bytes]) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(*self._daemon, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sender:
            for report in reports:
                sender.sendto(report, address)

    def _flush(self) -> None:
        """Counts what has been decoded so far; a sequence that goes on after all counts on as another one."""
        for row in self._rows.values():
            row.settle()
            self._end(row)
            row.start += len(row.entropies)
            row.entropies = []


def row_entropies(logits_BV: torch.Tensor, scratch_RV: torch.Tensor) -> list[float]:
    """Entropy of softmax(logits) of each row, nats.

    Args:
        logits_BV: fp32; a token that a grammar rules out is at -inf.
        scratch_RV: Overwritten. So many rows are computed at once: one for each thread, so that a row is read again
            from the thread's own cache. All rows at once push the model's weights out, and the next step pays.
    """
    entropies = torch.empty(logits_BV.shape[0])
    for start in range(0, logits_BV.shape[0], scratch_RV.shape[0]):
        rows_RV = logits_BV[start : start + scratch_RV.shape[0]]
        p_RV = scratch_RV[: rows_RV.shape[0]]
        torch.softmax(rows_RV, dim=-1, out=p_RV)
        # log sum exp(z) = max z - log max p
        lse_R = rows_RV.amax(dim=-1) - p_RV.amax(dim=-1).log()
        mean_R = torch.linalg.vecdot(p_RV, rows_RV)
        if not bool(torch.isfinite(mean_R).all()):  # 0 * -inf
            mean_R = torch.where(p_RV > 0, p_RV * rows_RV, 0.0).sum(dim=-1)
        entropies[start : start + rows_RV.shape[0]] = lse_R - mean_R
    return entropies.tolist()
