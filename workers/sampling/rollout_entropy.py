"""The entropy of a job's own rollouts: a window of the policy on the task, which costs nothing.

-log p(x) of a token x that was drawn at temperature 1 is an unbiased estimate of the entropy in its state, and the
sampler returns it with every rollout. So the estimate covers all that was sampled. Training knows the exact entropy,
but only of groups that it learns from, and those that teach nothing are what a collapsed policy mostly has.
"""

from collections.abc import Callable, Sequence

from reheatd.entropy.estimators import clustered_interval
from reheatd.entropy.windows import LiveWindow
from reheatd.jobs.contracts import JobBase
from reheatd.tap.moments import Moments
from workers.sampling.observed import ObservedSampling
from workers.sampling.rollout import Batch, Rollout, Sampler


class MeasuredSampling(ObservedSampling):
    """A sampler that reports the entropy of each batch that it samples from the whole distribution at temperature 1.

    A batch drawn in another way says nothing about this entropy: training measures it on such rollouts.
    """

    def __init__(self, sampler: Sampler, spec: JobBase, on_window: Callable[[LiveWindow], None]) -> None:
        super().__init__(sampler)
        self._spec = spec
        self._on_window = on_window

    def observe(self, batch: Batch, groups: list[list[Rollout]]) -> None:
        answered = [group for group in groups if group]
        if batch.temperature == batch.top_p == 1 and len(answered) > 1:
            self._on_window(rollout_window(self._spec, self.step, answered))


def rollout_window(spec: JobBase, step: int, groups: Sequence[list[Rollout]]) -> LiveWindow:
    """The window of rollouts that were sampled at temperature 1 after `step` optimiser steps.

    Completions of one prompt resemble each other, so the interval takes each prompt as one cluster.

    Args:
        groups: The completions of each of at least two prompts.
    """
    moments = Moments()
    clusters: list[list[float]] = []
    for group in groups:
        surprisals = [[-logprob for logprob in rollout.logprobs] for rollout in group]
        for sequence in surprisals:
            moments.add(sequence)
        clusters.append([value for sequence in surprisals for value in sequence])
    estimate = clustered_interval(clusters, spec.probes.confidence)
    return LiveWindow(
        version=spec.job_id,
        source="rollout",
        measured_by="monte_carlo",
        estimate=estimate.model_copy(update={"sequences": moments.sequences}),
        by_position=moments.by_position(),
        parent=spec.parent_version,
        step=step,
    )
