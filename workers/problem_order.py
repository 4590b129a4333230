"""The order in which RL sees a task's problems, and the place in it where the next job goes on."""

import hashlib
from collections.abc import Sequence

from reheatd.jobs.contracts import DataPlace
from reheatd.task_data import Problem, problem_digest


class ProblemOrder:
    """All problems in a random order, then all of them in another one, and so on.

    A pass over the problems is called an epoch. The order of an epoch follows from the problems' content and a seed, so
    it depends neither on the order of a file's lines nor on what drew the problems before.

    Args:
        seed: Seed of the order, unless an earlier job began it.
        places: Where earlier jobs stopped. The place in these problems, if it is among them, is gone on from.
    """

    def __init__(self, problems: Sequence[Problem], seed: int, places: Sequence[DataPlace] = ()) -> None:
        self._digests = [problem_digest(problem) for problem in problems]
        self._problems = problems
        self._order: list[int] = []
        self._epoch = -1
        problem_set = hashlib.sha256("".join(sorted(self._digests)).encode()).hexdigest()[:16]
        start = DataPlace(problem_set=problem_set, seed=seed, drawn=0)
        self.place = next((place for place in places if place.problem_set == problem_set), start)

    def take(self, count: int) -> list[Problem]:
        """The next `count` problems; `place` moves on behind them."""
        drawn = self.place.drawn
        self.place = self.place.model_copy(update={"drawn": drawn + count})
        return [self._problem(number) for number in range(drawn, drawn + count)]

    def _problem(self, number: int) -> Problem:
        epoch, index = divmod(number, len(self._problems))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        return self._problems[self._order[index]]

    def _shuffled(self, epoch: int) -> list[int]:
        start = f"{self.place.seed}/{epoch}/"
        keys = [hashlib.sha256((start + digest).encode()).digest() for digest in self._digests]
        return sorted(range(len(keys)), key=keys.__getitem__)
