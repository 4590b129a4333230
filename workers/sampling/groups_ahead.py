"""Batches of continued RL, of which the next is collected while training learns from the present one."""

from contextlib import AbstractContextManager

from workers.progress import Progress
from workers.sampling.background import Background
from workers.sampling.groups import Batch, GroupCollector
from workers.sampling.rollout import Sampler


class GroupsAhead(AbstractContextManager["GroupsAhead"]):
    """Gives the batches that `groups` collects. When the context ends, nothing is collected any more.

    A batch that is begun ahead is sampled from what the sampler had published by then, and nothing may be published
    until it is taken. So whoever publishes, begins the next batch and then takes one optimiser step learns from
    rollouts that are exactly one step old.
    """

    def __init__(self, groups: GroupCollector, sampler: Sampler, progress: Progress) -> None:
        self._groups = groups
        self._sampler = sampler
        self._progress = progress
        self._ahead: Background[Batch] | None = None

    def __exit__(self, *_: object) -> None:
        if self._ahead is not None:
            self._ahead.cancel()

    def begin(self, step: int) -> None:
        """Begins to collect the batch of `step`, which is to be taken next."""
        self._ahead = self._sampler.in_background(lambda: self._groups.collect(step))

    def take(self, step: int) -> Batch:
        """The batch of `step`: the one that was begun, or else one that is collected now.

        Raises:
            EngineError, JobCancelledError: As `GroupCollector.collect` raises them, now or in the background.
        """
        if self._ahead is None:
            return self._groups.collect(step)
        if not self._ahead.is_over:  # what is counted from now on are samples again, not what was reported since
            self._progress.report(self._groups.phase, step)
        batch = self._ahead.result()
        self._ahead = None
        return batch
