"""Keeps rollouts for people to read, while training samples them."""

import statistics
from collections.abc import Callable, Sequence
from itertools import chain

from reheatd.jobs.rollouts import RolloutRecorder, RolloutRow, TokenValues, ends, rounded
from reheatd.json_lines import Messages
from workers.rewards.scoring import Scores
from workers.sampling.observed import ObservedSampling
from workers.sampling.rollout import Batch, Rollout, Sampler

TokenTexts = Callable[[list[int]], list[str]]
"""Gives the text of each of some tokens that follow each other."""


class Recording:
    """Keeps rollouts in `recorder`. Rows are made only of those that are kept.

    Args:
        texts: Without it, tokens are not kept one by one.
    """

    def __init__(self, recorder: RolloutRecorder, texts: TokenTexts | None = None) -> None:
        self._recorder = recorder
        self._texts = texts

    def keep(
        self,
        step: int,
        messages: Messages,
        rollouts: Sequence[Rollout],
        scores: Scores | None = None,
        advantages: Sequence[float] | None = None,
    ) -> None:
        """Keeps completions of one prompt, which were sampled after `step` optimiser steps, if there is room for them.

        Raises:
            ReheatdError: The file cannot be read or written.
        """
        rows: list[RolloutRow] = []
        for index, rollout in enumerate(rollouts[: self._recorder.room(step)]):
            row = RolloutRow(
                step=step,
                model=rollout.model,
                messages=messages,
                completion=rollout.text,
                tokens=len(rollout.token_ids),
                mean_logprob=statistics.fmean(rollout.logprobs),
                truncated=rollout.truncated,
                reward=None if scores is None else scores.totals[index],
                advantage=None if advantages is None else advantages[index],
                rewards=[] if scores is None or not scores.rewards else scores.rewards[index],
                by_token=None if self._texts is None else self._by_token(self._texts, rollout),
            )
            rows.append(row)
        self._recorder.record(rows)

    @staticmethod
    def _by_token(texts: TokenTexts, rollout: Rollout) -> TokenValues:
        kept = ends(rollout.token_ids)
        return TokenValues(
            texts=[*chain.from_iterable(map(texts, kept))],
            logprobs=rounded(rollout.logprobs),
            entropies=None if rollout.entropies is None else rounded(rollout.entropies),
            left_out=len(rollout.token_ids) - sum(map(len, kept)),
        )


class RecordedSampling(ObservedSampling):
    """A sampler that records what `sampler` samples, for training without rewards."""

    def __init__(self, sampler: Sampler, recording: Recording) -> None:
        super().__init__(sampler)
        self._recording = recording

    def observe(self, batch: Batch, groups: list[list[Rollout]]) -> None:
        for messages, rollouts in zip(batch.prompts, groups, strict=True):
            self._recording.keep(self.step, messages, rollouts)
