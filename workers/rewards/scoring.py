"""The interface through which training and evaluation have completions scored."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from workers.rewards import Reward


@dataclass
class Unscored:
    """Counts of completions that scored 0 because the reward gave no result."""

    timeouts: int = 0
    """Completions for which the reward did not answer in time."""
    crashes: int = 0
    """Completions on which the reward's process died."""
    failures: int = 0
    """Completions on which the reward raised an exception, or did not return a finite number."""


class Scorer(Protocol):
    """Scores completions."""

    @property
    def unscored(self) -> Unscored: ...

    def score_all(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The rewards of (completion, answer) pairs, in their order."""
        ...


@dataclass
class InProcessScorer:
    """Calls a reward directly, which must not hang or crash; an exception of the reward ends the run."""

    reward: Reward
    unscored: Unscored = field(default_factory=Unscored)

    def score_all(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [self.reward(completion, answer) for completion, answer in pairs]
