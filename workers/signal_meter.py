"""Measures which problems a policy has lost, and what comes back of them after a remedy."""

import random
from collections.abc import Sequence
from pathlib import Path

from reheatd.errors import BadInputError, EngineError
from reheatd.files import write_atomically
from reheatd.jobs.contracts import ReheatSpec
from reheatd.measures import Contract
from reheatd.signal import Signal
from reheatd.task_data import Problem, problem_set_digest
from workers.evaluation import pass_rate
from workers.progress import Progress
from workers.rewards.scoring import Scorer
from workers.sampling.group_counts import GroupCounts
from workers.sampling.rollout import Sampler
from workers.sampling.seeds import seed_for


class Lost(Contract):
    """What is known of a parent, for a worker that takes over its job: all candidates have to be compared on this."""

    problem_set: str
    """Digest of the problems that were tried."""
    lost: list[int]
    """Places of the lost ones among them."""
    before: Signal


class SignalMeter:
    """Measures `Signal`s on the problems that the parent never solves.

    Build it while the sampler serves the parent. Unless `file` says what is lost, it then samples `signal_samples`
    answers to each of `signal_problems` problems, and as many again to those that fail as a whole.

    Args:
        problems: The problems that are trained on.
        file: Keeps what the parent has lost; None keeps nothing.

    Raises:
        BadInputError: The problems are not those that `file` was written for.
    """

    def __init__(
        self,
        spec: ReheatSpec,
        sampler: Sampler,
        problems: Sequence[Problem],
        scorer: Scorer,
        progress: Progress,
        file: Path | None = None,
    ) -> None:
        self._spec = spec
        self._sampler = sampler
        self._scorer = scorer
        self._progress = progress
        count = min(spec.signal_problems, len(problems))
        self._tried = random.Random(spec.seed).sample(list(problems), count)
        known = self._known(file) if file is not None and file.exists() else None
        if known is None:
            groups = [GroupCounts.of(rewards) for rewards in self._rewards(self._tried, 0)]
            places = [place for place, group in enumerate(groups) if group.all_fail]
        else:
            places = known.lost
        self._lost = [self._tried[place] for place in places]
        self.before = known.before if known else self.measure()
        """The parent's own."""
        if file is not None and known is None:
            lost = Lost(problem_set=problem_set_digest(self._tried), lost=places, before=self.before)
            write_atomically(file, lost.model_dump_json().encode())

    def _known(self, file: Path) -> Lost:
        known = Lost.model_validate_json(file.read_text())
        if known.problem_set != problem_set_digest(self._tried):
            raise BadInputError(
                "the task's problems changed while the job ran, so its candidates cannot be compared; run it again",
                param="task.path",
            )
        return known

    @property
    def samples(self) -> int:
        """Completions that are sampled to find the lost problems."""
        return len(self._tried) * self._spec.signal_samples

    def measure(self) -> Signal:
        """The signal of the version that is sampled from now."""
        answers = self._spec.signal_samples
        rewards = self._rewards(self._lost, 1) if self._lost else []
        rewarded = [sum(reward > 0 for reward in group) for group in rewards]
        return Signal(
            problems=len(self._tried),
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
            max_tokens=spec.rl.rollout_tokens,
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
        answered = [(rollout.text, problem) for problem, rollouts in groups for rollout in rollouts]
        scores = iter(self._scorer.score_all(answered))
        return [[next(scores) for _ in rollouts] for _, rollouts in groups]
