"""Seeds of what a job draws, so that no two draws of any job share their random numbers."""

import hashlib
from typing import Literal

Purpose = Literal["rollouts", "prompts", "probes", "answers", "report", "signal", "length"]
"""What is drawn: rollouts of RL, rollouts of a reheat, answers to probes, answers to held-out problems, the report's
rollouts, answers to problems that may be lost, or answers that decide the length of rollouts."""

SEED_BITS = 62
"""Bits of a seed. The number of a completion is added to it, and the engine takes 63 bits."""


def seed_for(purpose: Purpose, job_seed: int, *place: int) -> int:
    """The seed of one batch of samples, from 0 to 2**62 - 1.

    Seeds of different batches are independent of each other. They lie far apart, because `completion_seed` counts on
    from them.

    Args:
        place: Which batch of that purpose it is, such as the step.
    """
    name = "/".join((purpose, str(job_seed), *map(str, place)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> (64 - SEED_BITS)


def completion_seed(batch_seed: int, prompt: int, n: int, number: int) -> int:
    """The seed of one of the `n` completions of a batch's prompt.

    All completions of a batch have different seeds. They differ even in their lowest 32 bits, which is all that torch's
    generator on a CPU takes of a seed.

    Args:
        number: Which completion it is, from 0 to n - 1.
    """
    return batch_seed + prompt * n + number
