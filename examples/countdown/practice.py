"""A policy and the problems of one family that it practises on: RL, remedies and measurements in one place."""

from typing import Any

from examples.countdown.arms import Arm, RemedySizes, RLShape, job_fields
from examples.countdown.families import family_problems
from examples.countdown.learning import Watch
from examples.countdown.measuring import CountedSampler, HeldOut
from examples.countdown.records import Curve, Treated
from examples.countdown.task import reward
from examples.countdown.treatment import treat
from reheatd.config_tables import EntropySection
from reheatd.jobs.contracts import RLSpec
from workers.grpo import Grpo
from workers.policy import Policy
from workers.rewards.scoring import InProcessScorer


class Practice:
    """A policy on one family of problems.

    Args:
        earlier: The family that the policy collapsed on, or learned before.
        problems: Number of problems to train on; the seed chooses them.
        measure_every: Completions between two measurements; None measures only when asked.
        rule: The daemon's thresholds; RL ends with a `StalledError` when they call it stalled. None lets it go on.
    """

    def __init__(
        self,
        policy: Policy,
        family: str,
        earlier: str,
        *,
        problems: int,
        probes: int,
        evaluation_problems: int,
        seed: int,
        measure_every: int | None = None,
        rule: EntropySection | None = None,
    ) -> None:
        self.policy = policy
        self.pool = family_problems(family, problems, "train", seed)
        self.sampler = CountedSampler(policy, family_problems(family, probes, "train", seed=-1))
        others = None if family == earlier else family_problems(earlier, evaluation_problems, "held_out", seed=0)
        self.held_out = HeldOut(family_problems(family, evaluation_problems, "held_out", seed=0), others)
        self.watch = Watch(policy, self.sampler, self.held_out, measure_every=measure_every, rule=rule)
        self._treated: list[Treated] = []

    @property
    def curve(self) -> Curve:
        return Curve(points=self.watch.points, steps=self.watch.steps, treated=self._treated)

    def learn(self, shape: RLShape, samples: int, seed: int, **options: Any) -> None:
        """RL with at most `samples` completions, two measurements of entropy included; none if that is no step.

        Raises:
            StalledError: The rule calls it stalled.
        """
        steps = (samples - 2 * self.sampler.probes) // shape.step
        if steps < 1:
            return
        spec = RLSpec(
            **job_fields(seed),
            **shape.options(**options),
            steps=steps,
            patience=steps + 1,  # no arm ends before its budget
        )
        Grpo(self.policy, spec, self.sampler, self.pool, InProcessScorer(reward), self.watch).run()

    def treat(self, arm: Arm, shape: RLShape, sizes: RemedySizes, seed: int) -> None:
        """Applies the arm's remedy, if it has one; a new run of RL begins."""
        self._treated += treat(arm, self.policy, self.sampler, self.pool, shape, sizes, seed)
        self.watch.begin_run()
