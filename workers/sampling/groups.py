"""Groups of scored rollouts for one step of continued RL.

This is the dynamic sampling of DAPO (arXiv 2503.14476): a group whose rewards are all equal teaches nothing, so further
problems are sampled in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from reheatd.jobs.contracts import DataPlace, RLSpec
from reheatd.task_data import Problem
from workers.policy_gradient import group_advantages
from workers.problem_order import ProblemOrder
from workers.progress import Progress
from workers.rewards.scoring import Scorer, Scores
from workers.sampling.group_counts import GroupCounts
from workers.sampling.recording import Recording
from workers.sampling.rollout import Rollout, Sampler
from workers.sampling.seeds import seed_for


@dataclass(frozen=True)
class ScoredRollout:
    rollout: Rollout
    reward: float
    advantage: float | None
    """None in a group whose rewards are all equal; only an entropy bonus learns from it."""


@dataclass(frozen=True)
class Batch:
    """The rollouts that one step learns from, with figures over everything that was sampled for it."""

    scored: list[ScoredRollout]
    """Rollouts of groups whose rewards differ; with an entropy bonus, those of all groups."""
    counts: GroupCounts
    metrics: dict[str, float]
    place: DataPlace
    """The place in the problems behind those that were drawn for it."""


class GroupCollector:
    """Collects the batch of each step, from the problems that come next in the task's order."""

    def __init__(
        self,
        spec: RLSpec,
        sampler: Sampler,
        problems: Sequence[Problem],
        scorer: Scorer,
        progress: Progress,
        recording: Recording | None = None,
    ) -> None:
        self._spec = spec
        self._sampler = sampler
        self.order = ProblemOrder(problems, spec.seed, spec.places)
        self._scorer = scorer
        self._progress = progress
        self._recording = recording
        self.phase = "sampling"
        """What it is doing, or did last: `sampling` or `scoring`."""

    def collect(self, step: int) -> Batch:
        """Collects up to `prompts_per_step` groups whose rewards differ.

        There are fewer if `max_resamples` rounds of further problems do not bring enough.
        """
        spec = self._spec
        rewards: list[float] = []
        parts: dict[str, list[float]] = {}
        sampled: list[Rollout] = []
        scored: list[ScoredRollout] = []
        counts = GroupCounts()
        for _ in range(1 + spec.max_resamples):
            missing = spec.prompts_per_step - counts.varied
            if not missing:
                break
            for problem, rollouts, scores in self._sample_groups(missing, step):
                group = scores.totals
                counts += GroupCounts.of(group, scores.solving)
                rewards += group
                for name, values in scores.parts.items():
                    parts.setdefault(name, []).extend(values)
                sampled += rollouts
                advantages = group_advantages(group, normalise_std=spec.normalise_std)
                if self._recording is not None:
                    self._recording.keep(step, problem.messages, rollouts, scores, advantages)
                if advantages is not None or spec.entropy_bonus:
                    rows = zip(rollouts, group, advantages or [None] * len(group), strict=True)
                    scored += [ScoredRollout(*row) for row in rows]
        count = max(1, len(rewards))
        return Batch(
            # A truncated rollout was scored on half an answer. With `mask_truncated`, nothing is learned from it, but
            # its reward stays in the mean with which the others are compared.
            [item for item in scored if not (spec.mask_truncated and item.rollout.truncated)],
            counts,
            {
                "reward": sum(rewards) / count,
                **{f"reward_{name}": sum(values) / count for name, values in parts.items()},
                **counts.metrics,
                "completion_tokens": sum(len(rollout.token_ids) for rollout in sampled) / count,
                "truncated": sum(rollout.truncated for rollout in sampled) / count,
                "samples": float(len(rewards)),
                "verifier_timeouts": float(self._scorer.unscored.timeouts),
                "verifier_crashes": float(self._scorer.unscored.crashes),
                "verifier_failures": float(self._scorer.unscored.failures),
            },
            self.order.place,
        )

    def _sample_groups(self, count: int, step: int) -> list[tuple[Problem, list[Rollout], Scores]]:
        """Samples and scores the groups of the next `count` problems, without those of fewer than two rollouts."""
        spec = self._spec
        self._report("sampling", step)
        # The place in the data tells the steps of all jobs apart, which the number of the step does not.
        seed = seed_for("rollouts", spec.seed, self.order.place.drawn)
        problems = self.order.take(count)
        sampled = self._sampler.sample(
            [problem.messages for problem in problems],
            n=spec.group_size,
            max_tokens=spec.rollout_tokens,
            temperature=spec.temperature,
            seed=seed,
        )
        self._report("scoring", step)
        answered = [
            (rollout.text, problem) for problem, rollouts in zip(problems, sampled, strict=True) for rollout in rollouts
        ]
        scores = self._scorer.score_weighted(answered)
        ends = [*accumulate(map(len, sampled))]
        groups = [
            (problem, rollouts, scores.part(end - len(rollouts), end))
            for problem, rollouts, end in zip(problems, sampled, ends, strict=True)
        ]
        return [group for group in groups if len(group[1]) > 1]

    def _report(self, phase: str, step: int) -> None:
        self.phase = phase
        self._progress.report(phase, step)
