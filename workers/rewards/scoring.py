"""The interface through which training and evaluation have completions scored."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reheatd.jobs.rollouts import RewardPart
from reheatd.task_data import Problem
from workers.rewards.calling import Call, Reward

Answered = tuple[str, Problem]
"""A completion, and the problem that it answers."""


@dataclass
class Unscored:
    """Counts of completions that scored 0 because the reward gave no result."""

    timeouts: int = 0
    """Completions for which the reward did not answer in time."""
    crashes: int = 0
    """Completions on which the reward's process died."""
    failures: int = 0
    """Completions on which the reward raised an exception, or did not return a number."""

    def __add__(self, other: "Unscored") -> "Unscored":
        return Unscored(self.timeouts + other.timeouts, self.crashes + other.crashes, self.failures + other.failures)


@dataclass(frozen=True)
class Judgement:
    """What one reward gave for a completion."""

    value: float
    said: str | None = None
    """What the reward said about it, or why it gave no result; None if it said nothing."""


@dataclass(frozen=True)
class Scores:
    """Scores of some completions, in their order."""

    totals: list[float]
    """What training learns from: the weighted sums of all rewards."""
    solving: list[float]
    """The first reward, which decides whether a problem counts as solved."""
    parts: dict[str, list[float]] = field(default_factory=dict)
    """Each reward by its name, without its weight, if there are several."""
    rewards: list[list[RewardPart]] = field(default_factory=list)
    """All rewards of each completion, for people to read; empty if their names are not known."""

    def part(self, start: int, end: int) -> "Scores":
        """The scores of the completions from `start` to before `end`."""
        parts = {name: values[start:end] for name, values in self.parts.items()}
        return Scores(self.totals[start:end], self.solving[start:end], parts, self.rewards[start:end])


class Scorer(Protocol):
    """Scores completions."""

    @property
    def unscored(self) -> Unscored: ...

    def score_all(self, answered: Sequence[Answered]) -> list[float]:
        """The first reward of every completion, in their order."""
        ...

    def score_weighted(self, answered: Sequence[Answered]) -> Scores:
        """All rewards of every completion."""
        ...


@dataclass
class InProcessScorer:
    """Calls a reward directly, which must not hang or crash; an exception of the reward ends the run."""

    reward: Reward
    unscored: Unscored = field(default_factory=Unscored)

    def score_all(self, answered: Sequence[Answered]) -> list[float]:
        call = Call.of(self.reward)
        return [call(text, problem.answer, problem.messages, dict(problem.record)) for text, problem in answered]

    def score_weighted(self, answered: Sequence[Answered]) -> Scores:
        rewards = self.score_all(answered)
        return Scores(rewards, rewards)
