"""Keeps rollouts for people to read, while training samples them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from reheatd.jobs.rollouts import RolloutRecorder, RolloutRow, TokenValues, ends, rounded
from reheatd.json_lines import Messages
from workers.rewards.scoring import Scores
from workers.sampling.observed import ObservedSampling
from workers.sampling.rollout import Batch, Rollout, Sampler

TokenTexts = Callable[[list[int]], list[str]]
"""Gives the text of each of some tokens that follow each other."""


Learned = Callable[[list[int], Callable[[], list[float]]], None]
"""Takes the tokens of a rollout that is learned from, and what gives the entropies of their states in nats."""


@dataclass(frozen=True)
class _Kept:
    step: int
    index: int
    """Place among the rollouts that are kept of the step."""
    token_ids: list[int]
    """Held so that no other list gets its identity."""


class Recording:
    """Keeps rollouts in `recorder`. Rows are made only of those that are kept.

    Args:
        texts: Without it, tokens are not kept one by one.
    """

    def __init__(self, recorder: RolloutRecorder, texts: TokenTexts | None = None) -> None:
        self._recorder = recorder
        self._texts = texts
        self._step: int | None = None
        self._count = 0
        """Rollouts that are kept of this step so far."""
        self._unknown: dict[int, _Kept] = {}
        """Kept rollouts of which training may still tell the entropies, by the identity of their tokens."""

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
        room = self._recorder.room(step)
        if step != self._step:
            self._step, self._count = step, 0
            self._unknown = {key: kept for key, kept in self._unknown.items() if kept.step >= step - 1}
        rows: list[RolloutRow] = []
        for index, rollout in enumerate(rollouts[:room]):
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
            if row.by_token is not None and rollout.entropies is None:
                self._unknown[id(rollout.token_ids)] = _Kept(step, self._count, rollout.token_ids)
            self._count += 1
        self._recorder.record(rows)

    def learned(self, token_ids: list[int], entropies: Callable[[], list[float]]) -> None:
        """Takes the entropies of a rollout's tokens in nats, as training knows them, if the rollout is kept.

        Args:
            token_ids: The tokens, in the list that the rollout has.

        Raises:
            ReheatdError: The file cannot be written.
        """
        kept = self._unknown.pop(id(token_ids), None)
        if kept is not None:
            self._recorder.record_entropies(kept.step, kept.index, entropies())

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
