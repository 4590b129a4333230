"""A policy and the problems of one family that it practises on: RL, remedies and measurements in one place."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from examples.countdown.arms import Arm, RLShape, Treated, reinforce, treat
from examples.countdown.families import family_problems
from examples.countdown.learning import Memory, Step, Watch
from examples.countdown.measuring import PROBES, CountedSampler, HeldOut, Measured
from reheatd.config_tables import EntropySection
from reheatd.measures import Contract
from workers.policy import Policy


class Curve(Contract):
    """RL on the problems of one family, with the remedies before it and in between."""

    points: list[Measured]
    steps: list[Step]
    treated: list[Treated] = Field(default_factory=list)


class Practice:
    """A policy on one family of problems.

    Args:
        earlier: The family that the policy collapsed on, or learned before.
        problems: Number of problems to train on; the seed chooses them.
        window: Newest steps of RL that `lost` and the daemon's rule look at.
        measure_every: Completions between two measurements; None measures only when asked.
        rule: Whether RL ends with a `StalledError` when the daemon's rule calls it stalled.
    """

    def __init__(
        self,
        policy: Policy,
        family: str,
        earlier: str,
        *,
        problems: int,
        evaluation_problems: int,
        window: int,
        seed: int,
        measure_every: int | None = None,
        rule: bool = False,
    ) -> None:
        self.policy = policy
        self.pool = family_problems(family, problems, "train", seed)
        self.sampler = CountedSampler(policy, family_problems(family, PROBES, "train", seed=-1))
        others = None if family == earlier else family_problems(earlier, evaluation_problems, "held_out", seed=0)
        self.held_out = HeldOut(family_problems(family, evaluation_problems, "held_out", seed=0), others)
        settings = EntropySection(stall_steps=window) if rule else None
        self.watch = Watch(policy, self.sampler, self.held_out, measure_every=measure_every, rule=settings)
        self._memory = Memory(window)
        self._treated: list[Treated] = []

    @property
    def lost(self) -> list[str]:
        """Answers of the problems of the newest steps that failed at every try."""
        return self._memory.lost

    @property
    def curve(self) -> Curve:
        return Curve(points=self.watch.points, steps=self.watch.steps, treated=self._treated)

    def learn(self, shape: RLShape, samples: int, seed: int, **options: Any) -> None:
        """RL with at most `samples` completions.

        Raises:
            StalledError: The rule calls it stalled.
        """
        reinforce(
            self.policy,
            self.sampler,
            self.pool,
            self._memory,
            self.watch,
            shape,
            samples=samples,
            seed=seed,
            **options,
        )

    def treat(self, arm: Arm, lost: Sequence[str], shape: RLShape, *, steps: int, seed: int) -> None:
        """Applies the arm's remedy, if it has one; a new run of RL begins.

        Args:
            lost: Answers of the problems by which `auto` chooses.
            steps: Largest number of optimiser steps of TS-OPSD.
        """
        by_answer = {problem.answer: problem for problem in self.pool}
        self._treated += treat(
            arm,
            self.policy,
            self.sampler,
            self.pool,
            [by_answer[answer] for answer in lost],
            shape,
            steps=steps,
            seed=seed,
        )
        self.watch.begin_run()
