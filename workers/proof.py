"""What the daemon needs to prove that an adapter arrived: token ids with the trainer's own log-probabilities."""

from collections.abc import Sequence

from reheatd.jobs.contracts import ProofItem
from workers.policy import Policy
from workers.sampling import Sampler
from workers.task_data import Messages

ITEMS = 16
COMPLETION_TOKENS = 32


def build_proof(policy: Policy, sampler: Sampler, prompts: Sequence[Messages], seed: int) -> list[ProofItem]:
    """Completions of the first prompts by the final student, scored by the trainer under student and base."""
    groups = sampler.sample(prompts[:ITEMS], n=1, max_tokens=COMPLETION_TOKENS, temperature=1.0, seed=seed)
    sequences = [(rollout.prompt_ids, rollout.token_ids) for group in groups for rollout in group]
    new = policy.logprobs(sequences)
    with policy.as_base():
        base = policy.logprobs(sequences)
    return [
        ProofItem(prompt_ids=prompt, completion_ids=completion, logprobs=new_logprobs, base_logprobs=base_logprobs)
        for (prompt, completion), new_logprobs, base_logprobs in zip(sequences, new, base, strict=True)
    ]
