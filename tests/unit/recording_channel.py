"""A channel between worker and daemon that keeps what is sent."""

from reheatd.entropy.windows import LiveWindow
from reheatd.jobs.rollout_length import RolloutLength


class RecordingChannel:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, int, int, int]] = []
        self.lengths: list[RolloutLength] = []
        self.cancelled = False

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
    ) -> None:
        self.lengths += [] if length is None else [length]
        self.sent.append((phase, step, steps, done, of))

    def is_cancelled(self) -> bool:
        return self.cancelled
