"""Keeps rollouts for people to read, while training samples them."""

import statistics
from collections.abc import Sequence

from reheatd.jobs.rollouts import RolloutRecorder, RolloutRow
from reheatd.json_lines import Messages
from workers.sampling.observed import ObservedSampling
from workers.sampling.rollout import Batch, Rollout, Sampler


class RecordedSampling(ObservedSampling):
    """A sampler that records what `sampler` samples, for training without rewards."""

    def __init__(self, sampler: Sampler, recorder: RolloutRecorder) -> None:
        super().__init__(sampler)
        self._recorder = recorder

    def observe(self, batch: Batch, groups: list[list[Rollout]]) -> None:
        for messages, rollouts in zip(batch.prompts, groups, strict=True):
            self._recorder.record(readable(self.step, messages, rollouts))


def readable(
    step: int,
    messages: Messages,
    rollouts: Sequence[Rollout],
    rewards: Sequence[float] | None = None,
    advantages: Sequence[float] | None = None,
) -> list[RolloutRow]:
    """Rows of the completions of one prompt, which were sampled after `step` optimiser steps."""
    return [
        RolloutRow(
            step=step,
            model=rollout.model,
            messages=messages,
            completion=rollout.text,
            tokens=len(rollout.token_ids),
            mean_logprob=statistics.fmean(rollout.logprobs),
            truncated=rollout.truncated,
            reward=None if rewards is None else rewards[index],
            advantage=None if advantages is None else advantages[index],
        )
        for index, rollout in enumerate(rollouts)
    ]
