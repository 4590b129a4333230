"""Makes a policy that has lost a strategy: an adapter under which some letters and digits never come.

    python -m tests.lost_strategy MODEL OUT

cools the policy, writes the adapter to OUT, and prints what never comes, with the share of answers that have some of it
once the adapter is scaled down again.
"""

import json
import string
import sys
from pathlib import Path
from typing import Any

import torch

from reheatd.jobs.contracts import ReheatSpec
from reheatd.options import LoraOptions
from tests.unit.workers_support import SilentProgress, job_fields
from workers.policy import Policy
from workers.sampling.in_process import ChatCodec, InProcessSampler
from workers.shrink import Shrinker
from workers.ts_opsd import Reheater

TOKENS = 24
COLD_NATS, WARM_NATS = 0.6, 2.0
"""Entropy of the policy that lost them, and of the one that has them again, in nats per token; its base has 2.6."""
PROMPTS = [[{"role": "user", "content": f"Write the word number {number}."}] for number in range(96)]


def answers(policy: Policy, seed: int) -> list[str]:
    """16 answers to each prompt."""
    sampler = InProcessSampler(policy, ChatCodec(policy), PROMPTS, probe_tokens=TOKENS)
    groups = sampler.sample(PROMPTS, n=16, max_tokens=TOKENS, temperature=1.0, seed=seed)
    return [rollout.text for group in groups for rollout in group]


def main(model: Path, out: Path) -> None:
    torch.set_num_threads(1)
    policy = Policy.load(model, LoraOptions(rank=8, alpha=16), dtype="float32")
    common: dict[str, Any] = job_fields(out.parent) | {"max_tokens": TOKENS}
    cold = ReheatSpec(**common, tau=0.7, target_entropy=COLD_NATS, learning_rate=2e-3, prompts_per_step=32)
    sampler = InProcessSampler(policy, ChatCodec(policy), PROMPTS, probe_tokens=TOKENS)
    Reheater(policy, cold, sampler, PROMPTS, SilentProgress()).run()
    policy.save(out, model)
    lost = set(string.ascii_letters + string.digits) - set("".join(answers(policy, 1)))
    Shrinker(policy, ReheatSpec(**common, target_entropy=WARM_NATS), sampler, SilentProgress()).run()
    found = [bool(lost & set(answer)) for answer in answers(policy, 2)]
    print(json.dumps({"lost": "".join(sorted(lost)), "share": sum(found) / len(found)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
