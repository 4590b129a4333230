"""Sampling in the trainer's own process: from how much of the distribution."""

import math
from collections import Counter

import pytest

from tests.unit.test_comparison import policy_with
from tests.unit.workers_support import NumberCodec, number_prompts
from workers.sampling.in_process import InProcessSampler


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
def test_only_the_most_probable_tokens_that_hold_the_share_are_sampled(top_p: float) -> None:
    policy = policy_with(0.0)
    sampler = InProcessSampler(policy, NumberCodec(), [])
    (prompt,) = number_prompts(1)
    whole, share = (
        sampler.sample([prompt], n=4000, max_tokens=1, temperature=1.0, seed=0, top_p=p)[0] for p in (1.0, top_p)
    )
    probability = {rollout.token_ids[0]: math.exp(rollout.logprobs[0]) for rollout in whole}
    nucleus, held = [], 0.0
    for token in sorted(probability, key=lambda token: -probability[token]):
        if held >= top_p:
            break
        nucleus.append(token)
        held += probability[token]
    drawn = Counter(rollout.token_ids[0] for rollout in share)
    assert set(drawn) == set(nucleus)
    for token in nucleus:  # in their old proportions
        expected = probability[token] / held
        assert drawn[token] / 4000 == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 4000) ** 0.5 + 1e-9)
    # The log-probabilities stay those of the whole distribution.
    for rollout in share[:100]:
        assert rollout.logprobs[0] == pytest.approx(math.log(probability[rollout.token_ids[0]]), abs=1e-5)
