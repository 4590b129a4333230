"""The memory of one training pass of SmolLM2-135M: `python -m bench.memory_sides pass OPTIONS`.

It is the peak of resident memory in a forward and backward pass of TS-OPSD over one sequence, less the memory before
it, with the policy loaded and the libraries warm.
"""

import json
import sys
import time
from typing import Any

import torch

from bench.recorded import bench_policy
from bench.rollout_file import PLAIN_TOKENS
from bench.sides import peak_memory
from workers.losses import chunked_divergence
from workers.policy import Policy, TokenBatch


def training_pass(policy: Policy, tokens: int) -> float:
    """Adds the gradient of a random sequence of `tokens` tokens, and returns the loss per token."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(*PLAIN_TOKENS, (tokens + 1,), generator=generator).tolist()
    batch = TokenBatch.build([(ids[:64], ids[64:])], policy.device)
    divergence_T, _, _ = chunked_divergence(policy.hidden(batch), policy.head_VD, tau=1.2, kind="forward_kl")
    policy.add_gradients(divergence_T.mean())
    return float(divergence_T.detach().mean())


def measure(tokens: int, checkpointing: bool) -> dict[str, Any]:
    policy = bench_policy(checkpointing=checkpointing)
    training_pass(policy, 128)
    memory, begun = peak_memory(), time.perf_counter()
    loss = training_pass(policy, tokens)
    return {"seconds": [0.0, time.perf_counter() - begun], "peak_mib": memory.mib(), "loss": loss}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[2]))))
