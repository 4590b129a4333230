"""A channel between worker and daemon that keeps what is sent."""

from reheatd.entropy.live import LiveWindow


class RecordingChannel:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, int, int, int]] = []
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
    ) -> None:
        self.sent.append((phase, step, steps, done, of))

    def is_cancelled(self) -> bool:
        return self.cancelled
