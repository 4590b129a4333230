"""The rewards of a task with their weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from reheatd.jobs.rollouts import RewardPart
from reheatd.options import TaskOptions
from reheatd.task_data import Problem
from reheatd.tasks.sources import source_name
from workers.rewards import installed_rewards
from workers.rewards.scoring import Answered, Scores, Unscored
from workers.rewards.verifier import Verifier

DEFAULT = "numeric"


def weights_of(task: TaskOptions) -> Mapping[str, float]:
    """The names of a task's rewards with their weights: those given, or the scorer of the task's source, or numeric."""
    if task.rewards:
        return task.rewards
    if task.reward is not None:
        return {task.reward: 1.0}
    source = source_name(task.path)
    return {source if source is not None and source in installed_rewards() else DEFAULT: 1.0}


class WeightedRewards(AbstractContextManager["WeightedRewards"]):
    """A `Scorer` with a `Verifier` for each reward of a task.

    Args:
        on_progress, readable, variables: As for `Verifier`.
    """

    def __init__(
        self,
        task: TaskOptions,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        readable: Sequence[Path] = (),
        variables: Sequence[str] = (),
    ) -> None:
        self._weights = dict(weights_of(task))
        self._verifiers = {
            name: Verifier(
                name,
                timeout_s=task.reward_timeout_s,
                on_progress=on_progress,
                readable=readable,
                variables=variables,
            )
            for name in self._weights
        }
        self._stack = ExitStack()

    def __enter__(self) -> "WeightedRewards":
        with ExitStack() as stack:
            for verifier in self._verifiers.values():
                stack.enter_context(verifier)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def unscored(self) -> Unscored:
        return sum((verifier.unscored for verifier in self._verifiers.values()), Unscored())

    def check_answers(self, problems: Sequence[Problem]) -> None:
        """Checks that the rewards can use the answers, as far as they can tell.

        Raises:
            BadInputError: They cannot use one; the message names its place.
        """
        for verifier in self._verifiers.values():
            verifier.check_answers(problems)

    def score_all(self, answered: Sequence[Answered]) -> list[float]:
        """The first reward of every completion, in their order."""
        return next(iter(self._verifiers.values())).score_all(answered)

    def score_weighted(self, answered: Sequence[Answered]) -> Scores:
        """All rewards of every completion."""
        judged = {name: verifier.judge_all(answered) for name, verifier in self._verifiers.items()}
        parts = {name: [judgement.value for judgement in judgements] for name, judgements in judged.items()}
        weights = [self._weights[name] for name in parts]
        totals = [
            math.fsum(weight * value for weight, value in zip(weights, values, strict=True))
            for values in zip(*parts.values(), strict=True)
        ]
        rewards = [
            [
                RewardPart(name=name, weight=weight, value=judgement.value, said=judgement.said)
                for name, weight, judgement in zip(judged, weights, judgements, strict=True)
            ]
            for judgements in zip(*judged.values(), strict=True)
        ]
        return Scores(totals, next(iter(parts.values())), parts if len(parts) > 1 else {}, rewards)
