"""Measures which problems a policy has lost, and what comes back of them after a remedy."""

import random
from collections.abc import Sequence

from reheatd.errors import EngineError
from reheatd.jobs.contracts import ReheatSpec
from reheatd.signal import Signal
from reheatd.task_data import Problem
from workers.evaluation import pass_rate
from workers.progress import Progress
from workers.rewards.scoring import Scorer
from workers.sampling.group_counts import GroupCounts
from workers.sampling.rollout import Sampler
from workers.sampling.seeds import seed_for


class SignalMeter:
    """Measures `Signal`s on the problems that the parent never solves.

    Build it while the sampler serves the parent. It then samples `signal_samples` answers to each of
    `signal_problems` problems, and as many again to those that fail as a whole.

    Args:
        problems: The problems that are trained on.
    """

    def __init__(
        self, spec: ReheatSpec, sampler: Sampler, problems: Sequence[Problem], scorer: Scorer, progress: Progress
    ) -> None:
        self._spec = spec
        self._sampler = sampler
        self._scorer = scorer
        self._progress = progress
        count = min(spec.signal_problems, len(problems))
        tried = random.Random(spec.seed).sample(list(problems), count)
        self._tried = count
        groups = [GroupCounts.of(rewards) for rewards in self._rewards(tried, 0)]
        self._lost = [problem for problem, group in zip(tried, groups, strict=True) if group.all_fail]
        self.before = self.measure()
        """The parent's own."""

    @property
    def samples(self) -> int:
        """Completions that were sampled to find the lost problems."""
        return self._tried * self._spec.signal_samples

    def measure(self) -> Signal:
        """The signal of the version that is sampled from now."""
        answers = self._spec.signal_samples
        rewards = self._rewards(self._lost, 1) if self._lost else []
        rewarded = [sum(reward > 0 for reward in group) for group in rewards]
        return Signal(
            problems=self._tried,
            lost=len(self._lost),
            answers=answers,
            rewarded=rewarded,
            varied=sum(GroupCounts.of(group).varied for group in rewards),
            success=pass_rate(rewarded, answers, 1) if rewarded else None,
            samples=len(self._lost) * answers,
        )

    def _rewards(self, problems: Sequence[Problem], draw: int) -> list[list[float]]:
        """The rewards of the answers to each problem. Each draw has its own random numbers, for all versions."""
        spec = self._spec
        self._progress.report("looking for lost problems" if draw == 0 else "measuring signal", 0)
        sampled = self._sampler.sample(
            [problem.messages for problem in problems],
            n=spec.signal_samples,
            max_tokens=spec.rl.max_tokens,
            temperature=1.0,
            seed=seed_for("signal", spec.seed, draw),
        )
        short = sum(len(rollouts) < spec.signal_samples for rollouts in sampled)
        if short:
            raise EngineError(
                f"{self._sampler.model} gave fewer than {spec.signal_samples} answers to {short} of {len(problems)} "
                "problems, so its signal cannot be compared; see the engine's log"
            )
        groups = list(zip(problems, sampled, strict=True))
        pairs = [(rollout.text, problem.answer) for problem, rollouts in groups for rollout in rollouts]
        scores = iter(self._scorer.score_all(pairs))
        return [[next(scores) for _ in rollouts] for _, rollouts in groups]
