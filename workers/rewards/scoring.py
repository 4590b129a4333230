"""What training and evaluation need from whatever scores completions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from workers.rewards import Reward


@dataclass
class Unscored:
    """Completions that scored 0 for want of a reward."""

    timeouts: int = 0
    """The verifier did not answer in time."""
    crashes: int = 0
    """Its process died."""
    failures: int = 0
    """It raised, or returned no finite number."""


class Scorer(Protocol):
    @property
    def unscored(self) -> Unscored: ...

    def score_all(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The rewards of (completion, answer) pairs, in their order."""
        ...


@dataclass
class InProcessScorer:
    """Calls a reward directly: for one that is trusted not to hang or crash. Whatever it raises ends the run."""

    reward: Reward
    unscored: Unscored = field(default_factory=Unscored)

    def score_all(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [self.reward(completion, answer) for completion, answer in pairs]
