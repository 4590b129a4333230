"""What the reference is asked: the held-out problems, with answers as long as those of the jobs on the task."""

import logging
from dataclasses import dataclass

from reheatd.config import Settings
from reheatd.control.rollout_lengths import RolloutLengths
from reheatd.control.specs import task_of_jobs
from reheatd.engine.client import EngineClient
from reheatd.entropy.probes import ProbeSet
from reheatd.reference.answers import AnswerKey, ReferenceAnswers, ask, find_length
from reheatd.task_data import TaskData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Questions:
    """The questions to a reference."""

    settings: Settings
    reference: str
    """Digest of the reference's files."""
    data: TaskData
    lengths: RolloutLengths
    """Where the length of answers is kept that the reference's own decide, if no job has found one."""

    def key(self) -> AnswerKey | None:
        """What the answers depend on; None if their length is not known yet."""
        length = self.lengths.known(self.settings.task, self._probe_digest)
        task = task_of_jobs(self.settings, self.settings.rl.with_length(length))
        return None if task.eval_max_tokens is None else AnswerKey.of(self.reference, self.data.held_out, task)

    async def ask(self, client: EngineClient) -> ReferenceAnswers:
        """The reference's answers, from the engine that serves it.

        Raises:
            BadInputError: A prompt leaves no room for an answer.
            EngineError: The engine did not answer, or refused.
        """
        key = self.key()
        if key is None:
            logger.info("finding the length of rollouts by the reference's answers")
            found = await find_length(client, self.data)
            logger.log(logging.WARNING if found.is_all_room else logging.INFO, "%s", found.explanation)
            self.lengths.save(self.settings.task, self._probe_digest, found)
            key = self.key()
            if key is None:
                raise RuntimeError(f"the length of rollouts for {found.max_model_len} tokens was not kept")
        logger.info("asking the reference %s held-out problems, %s times each", len(self.data.held_out), key.samples)
        return await ask(client, key, self.data.held_out)

    @property
    def _probe_digest(self) -> str:
        return ProbeSet.of(self.data.probes).digest
