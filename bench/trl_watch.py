"""A stopwatch for TRL's trainers."""

import time
from typing import Any

from transformers import TrainerCallback


class StepWatch(TrainerCallback):
    """Seconds of every step, rollouts included: the benchmarks give them from a list."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._begun)
