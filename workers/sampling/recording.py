"""Keeps rollouts for people to read, while training samples them."""

import statistics
from collections.abc import Sequence

from reheatd.jobs.rollouts import RolloutRecorder, RolloutRow
from reheatd.measures import EntropyEstimate
from workers.policy import Policy
from workers.sampling.rollout import Rollout, Sampler
from workers.task_data import Messages, Prompts


class RecordedSampling:
    """A sampler that records what `sampler` samples, for training without rewards."""

    def __init__(self, sampler: Sampler, recorder: RolloutRecorder) -> None:
        self._sampler = sampler
        self._recorder = recorder
        self._step = 0
        """Step of the student that is sampled from; a resumed job publishes its student before it samples."""

    @property
    def model(self) -> str:
        return self._sampler.model

    def publish(self, policy: Policy, step: int) -> None:
        self._sampler.publish(policy, step)
        self._step = step

    def sample(
        self, prompts: Prompts, *, n: int, max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> list[list[Rollout]]:
        groups = self._sampler.sample(
            prompts, n=n, max_tokens=max_tokens, temperature=temperature, seed=seed, top_p=top_p
        )
        for messages, rollouts in zip(prompts, groups, strict=True):
            self._recorder.record(readable(self._step, messages, rollouts))
        return groups

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        return self._sampler.measure_entropy(seed)


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
