"""Progress of a job: what training code reports, and how it learns that it was cancelled."""

from typing import Protocol


class JobCancelledError(Exception):
    """The user cancelled the job; raised out of `Progress.report` so that training unwinds."""


class Progress(Protocol):
    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        """Reports the present phase and step (from 0).

        Raises:
            JobCancelledError: The job was cancelled.
        """
        ...


class ProgressChannel(Protocol):
    """The part of `reheatd.jobs.channel.JobChannel` that reports progress."""

    def progress(self, phase: str, step: int, steps: int, metrics: dict[str, float]) -> None: ...

    def is_cancelled(self) -> bool: ...


class ChannelProgress:
    """Sends progress to the daemon and asks for cancellation on the way."""

    def __init__(self, channel: ProgressChannel, steps: int) -> None:
        self._channel = channel
        self._steps = steps
        self._metrics: dict[str, float] = {}

    @property
    def metrics(self) -> dict[str, float]:
        """Last value of every metric reported so far."""
        return dict(self._metrics)

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        self._metrics.update(metrics or {})
        self._channel.progress(phase, step, self._steps, metrics or {})
        if self._channel.is_cancelled():
            raise JobCancelledError
