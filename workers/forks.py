"""How far samples are from the greedy completion of their prompt: where they leave it, and how much they differ.

The figures are those with which arXiv 2606.00755 shows an entropy jump: the fork position and the edit distance.
"""

from collections.abc import Sequence

import numpy as np

from reheatd.entropy.estimators import clustered_interval
from reheatd.errors import EngineError
from reheatd.jobs.report import GreedyDistance, MeanOverRollouts
from workers.sampling.rollout import Rollout

CONFIDENCE = 0.95


def greedy_distance(sampled: Sequence[Rollout], greedy: Sequence[Rollout]) -> GreedyDistance:
    """Compares each sample with the greedy completion of the same prompt; samples of other prompts are left out.

    Raises:
        EngineError: Fewer than two samples have a greedy completion.
    """
    by_prompt = {tuple(rollout.prompt_ids): rollout.token_ids for rollout in greedy}
    pairs = [(r.token_ids, by_prompt[key]) for r in sampled if (key := tuple(r.prompt_ids)) in by_prompt]
    if len(pairs) < 2:
        raise EngineError(f"only {len(pairs)} of {len(sampled)} samples have a greedy completion to compare them with")
    forks = [fork_position(tokens, reference) for tokens, reference in pairs]
    return GreedyDistance(
        fork_position=_mean(
            [len(tokens) if fork is None else fork for fork, (tokens, _) in zip(forks, pairs, strict=True)]
        ),
        never_forked=forks.count(None) / len(forks),
        edit_distance=_mean([normalised_edit_distance(tokens, reference) for tokens, reference in pairs]),
    )


def fork_position(tokens: Sequence[int], reference: Sequence[int]) -> int | None:
    """The first position at which two completions differ, from 0; None if one is the beginning of the other."""
    return next((i for i, (one, other) in enumerate(zip(tokens, reference, strict=False)) if one != other), None)


def normalised_edit_distance(one: Sequence[int], other: Sequence[int]) -> float:
    """Levenshtein distance in tokens over the longer length: 0 for the same tokens, 1 if nothing is kept."""
    longest = max(len(one), len(other))
    return edit_distance(one, other) / longest if longest else 0.0


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """The least number of inserted, deleted and replaced tokens that turns one sequence into the other.

    This is the usual table of Wagner and Fischer, one row at a time. In a row, the cheapest way that ends with
    insertions is a running minimum of the other ways, so completions of thousands of tokens take well below a second.
    """
    other_T = np.asarray(other)
    places = np.arange(len(other) + 1)
    row = places
    for token in one:
        deleted = row + 1
        deleted[1:] = np.minimum(deleted[1:], row[:-1] + (other_T != token))
        row = np.minimum.accumulate(deleted - places) + places
    return int(row[-1])


def _mean(values: Sequence[float]) -> MeanOverRollouts:
    estimate = clustered_interval([[value] for value in values], CONFIDENCE)
    return MeanOverRollouts(mean=estimate.mean, low=estimate.low, high=estimate.high, rollouts=estimate.sequences)
