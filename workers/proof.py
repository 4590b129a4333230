"""Proof items, with which the daemon proves that an adapter arrived: token ids and the trainer's log-probabilities."""

from collections.abc import Sequence

from reheatd.adapters.lineage import ProofItem
from workers.policy import Policy
from workers.sampling.rollout import Rollout

ITEMS = 8
COMPLETION_TOKENS = 32


def build_proof(policy: Policy, rollouts: Sequence[Rollout]) -> list[ProofItem]:
    """Makes proof items of the first rollouts, cut to length and scored by the trainer under student and base.

    Args:
        rollouts: Rollouts that were sampled from the final student.
    """
    sequences = [(rollout.prompt_ids, rollout.token_ids[:COMPLETION_TOKENS]) for rollout in rollouts[:ITEMS]]
    new = policy.logprobs(sequences)
    with policy.as_base():
        base = policy.logprobs(sequences)
    return [
        ProofItem(prompt_ids=prompt, completion_ids=completion, logprobs=new_logprobs, base_logprobs=base_logprobs)
        for (prompt, completion), new_logprobs, base_logprobs in zip(sequences, new, base, strict=True)
    ]
