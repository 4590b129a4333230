"""Progress of a job: training code reports it, and learns on the way whether the job was cancelled."""

import threading
import time
from typing import Protocol

from reheatd.entropy.windows import LiveWindow
from reheatd.jobs.curves import CurveWriter
from reheatd.jobs.rollout_length import RolloutLength

COUNT_EVERY_S = 0.5
"""Least time between two reports of how far a phase is, in seconds; more reports would be of no use to anybody."""


class JobCancelledError(Exception):
    """The user cancelled the job. `Progress.report` raises this, so that training ends."""


class Progress(Protocol):
    """Takes the reports of training code."""

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        """Reports the present phase and step, counted from 0.

        Raises:
            JobCancelledError: The job was cancelled.
        """
        ...


class ProgressChannel(Protocol):
    """The part of `reheatd.jobs.channel.JobChannel` that reports progress."""

    def progress(
        self,
        phase: str,
        step: int,
        steps: int,
        metrics: dict[str, float],
        *,
        done: int = 0,
        of: int = 0,
        rollouts: LiveWindow | None = None,
        length: RolloutLength | None = None,
    ) -> None: ...

    def is_cancelled(self) -> bool: ...


class ChannelProgress:
    """Sends progress to the daemon, and checks each time whether the job was cancelled. Any thread may report.

    Args:
        curves: Keeps all metrics step by step; None keeps only the last value of each.
    """

    def __init__(self, channel: ProgressChannel, steps: int, curves: CurveWriter | None = None) -> None:
        self._channel = channel
        self._steps = steps
        self._curves = curves
        self._metrics: dict[str, float] = {}
        self._phase, self._step = "", 0
        self._sent_at = 0.0
        self._sending = threading.Lock()

    def turn_to(self, steps: int, curves: CurveWriter) -> None:
        """Begins another part of the job, with steps, metrics and curves of its own."""
        self._steps, self._curves, self._metrics = steps, curves, {}

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric that was reported so far."""
        return dict(self._metrics)

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        self._metrics.update(metrics or {})
        self._send(metrics or {}, place=(phase, step))
        # The channel has accepted this worker: one that was replaced must not write into its successor's curves.
        if metrics and self._curves is not None:
            self._curves.add(step, metrics)

    def rollouts(self, window: LiveWindow) -> None:
        """Reports the entropy of rollouts that were just sampled.

        Raises:
            JobCancelledError: The job was cancelled.
        """
        self._send({}, rollouts=window)

    def length(self, found: RolloutLength) -> None:
        """Reports the length of rollouts that was found.

        Raises:
            JobCancelledError: The job was cancelled.
        """
        phase = f"preparing; {found.explanation}" if found.is_all_room else "preparing"
        metrics = {"rollout_tokens": float(found.tokens), "answers_unended": found.unended / found.answers}
        self._metrics.update(metrics)
        self._send(metrics, place=(phase, 0), length=found)

    def count(self, done: int, of: int) -> None:
        """Reports that `done` of `of` items of the present phase are done, at most every `COUNT_EVERY_S` seconds.

        Raises:
            JobCancelledError: The job was cancelled.
        """
        if time.monotonic() - self._sent_at >= COUNT_EVERY_S:
            self._send({}, done, of)

    def look_up(self) -> None:
        """Ends a job that waits for something, if it was cancelled meanwhile.

        Raises:
            JobCancelledError: The job was cancelled.
        """
        if self._channel.is_cancelled():
            raise JobCancelledError

    def _send(
        self,
        metrics: dict[str, float],
        done: int = 0,
        of: int = 0,
        rollouts: LiveWindow | None = None,
        place: tuple[str, int] | None = None,
        length: RolloutLength | None = None,
    ) -> None:
        with self._sending:
            self._phase, self._step = place or (self._phase, self._step)
            self._sent_at = time.monotonic()
            self._channel.progress(
                self._phase,
                self._step,
                self._steps,
                metrics,
                done=done,
                of=of,
                rollouts=rollouts,
                length=length,
            )
        self.look_up()
