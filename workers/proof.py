"""Proof items, with which the daemon proves that an adapter arrived: token ids and the trainer's log-probabilities."""

from collections.abc import Sequence
from itertools import chain

from reheatd.adapters.lineage import ProofItem
from workers.policy import Policy
from workers.sampling.rollout import Rollout
from workers.shared_prompts import Sequences

ITEMS = 8
"""Number of items of each kind."""
COMPLETION_TOKENS = 32
PIECE_TOKENS = 34
"""Tokens of a short item: one more than a block of the engine's prefix cache, so that the cache is looked at, and one
that nothing is said about."""


def build_proof(policy: Policy, rollouts: Sequence[Rollout]) -> list[ProofItem]:
    """Makes proof items of rollouts that were sampled from the final student, scored under student and base."""
    sequences = proof_sequences([(rollout.prompt_ids, rollout.token_ids) for rollout in rollouts])
    new = policy.logprobs(sequences)
    with policy.as_base():
        base = policy.logprobs(sequences)
    return [
        ProofItem(prompt_ids=prompt, completion_ids=completion, logprobs=new_logprobs, base_logprobs=base_logprobs)
        for (prompt, completion), new_logprobs, base_logprobs in zip(sequences, new, base, strict=True)
    ]


def proof_sequences(rollouts: Sequences) -> list[tuple[list[int], list[int]]]:
    """Cuts what is scored for a proof from rollouts; both are pairs of prompt ids and completion ids.

    An item costs the engine time by its length, the prompt included. So half of the items are short: the completions,
    one after the other and without their prompts, are cut into pieces, and each piece comes after a single token, the
    prompts' first. The other items are completions after their prompts.
    """
    cut = [(prompt, completion[:COMPLETION_TOKENS]) for prompt, completion in rollouts]
    text = list(chain.from_iterable(completion for _, completion in cut))
    length = PIECE_TOKENS - 1
    starts = range(0, min(len(text), ITEMS * length), length)
    return [*((rollouts[0][0][:1], text[start : start + length]) for start in starts), *cut[:ITEMS]]
