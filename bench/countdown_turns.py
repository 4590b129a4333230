"""What `bench.rl` measures on Countdown: sampling in process, and an update with and without shared prompts.

The policy is that of `examples.countdown` after the first third of the RL that makes it collapse on easy problems; all
that the experiment's second half samples comes from such policies. Sampling is also measured before that RL, where
fewer rollouts begin alike. A step has 16 prompts of 7 tokens with 8 completions of 8 tokens each. One thread computes.
Both sides take turns in one process, so that whatever else the machine does affects both; which one is first
alternates.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.figures import Report
from bench.paired import pseudomedian
from bench.plain_sampling import PlainSampler
from examples.countdown.arms import job_fields
from examples.countdown.families import family_problems
from examples.countdown.plan import FULL
from examples.countdown.policy import load_policy, pretrain
from examples.countdown.practice import Practice
from examples.countdown.task import COMPLETION_TOKENS, WordCodec
from reheatd.jobs.contracts import RLSpec
from workers import shared_prompts
from workers.policy import Policy
from workers.rl_learner import Learner
from workers.sampling.groups import ScoredRollout
from workers.sampling.in_process import InProcessSampler
from workers.sampling.rollout import Rollout

COLLAPSE = FULL.collapses["sums"]
PROMPTS, GROUP_SIZE = COLLAPSE.shape.prompts, COLLAPSE.shape.group
RL_STEPS = COLLAPSE.steps // 3
LEARNING_RATE = 1e-9
"""So small that the policy stays what it is."""
TURNS = 64


def countdown_turns(report: Report) -> dict[str, Any]:
    """Reports the speedups, and returns the settings that belong to them."""
    with tempfile.TemporaryDirectory() as folder:
        pretrain(Path(folder) / "model", FULL.pretraining_steps)
        policy = load_policy(Path(folder) / "model")
    torch.set_num_threads(1)
    _sampling(policy, report, "in_process_sampling_pretrained")
    practice = Practice(
        policy, COLLAPSE.family, COLLAPSE.family, problems=COLLAPSE.problems, probes=2, evaluation_problems=1, seed=0
    )
    practice.learn(COLLAPSE.shape, RL_STEPS * COLLAPSE.shape.step + 2 * practice.sampler.probes, seed=0)
    _sampling(policy, report, "in_process_sampling")
    _update(policy, report)
    return {"turns": TURNS, "prompts": PROMPTS, "group_size": GROUP_SIZE, "rl_steps": RL_STEPS}


def _sampling(policy: Policy, report: Report, name: str) -> None:
    plain, merged = (_sampling_by(kind, policy) for kind in (PlainSampler, InProcessSampler))
    tokens = [[rollout.token_ids for group in sample(0) for rollout in group] for sample in (plain, merged)]
    if tokens[0] != tokens[1]:
        raise RuntimeError("the plain way and ours sample different tokens from one seed")
    _take_turns(report, name, plain, merged)


def _update(policy: Policy, report: Report) -> None:
    """Measures whole updates: building micro-batches, both passes through the model, the loss and Adam's step."""
    spec = RLSpec(
        **job_fields(0),
        prompts_per_step=PROMPTS,
        group_size=GROUP_SIZE,
        max_tokens=COMPLETION_TOKENS,
        learning_rate=LEARNING_RATE,
    )
    learner = Learner(policy, spec)
    scored = [
        ScoredRollout(rollout, 0.0, 0.5 if place % 2 else -0.5)
        for group in _sampling_by(InProcessSampler, policy)(0)
        for place, rollout in enumerate(group)
    ]

    def shared(_: int) -> dict[str, float]:
        return learner.learn(scored)

    def alone(_: int) -> dict[str, float]:
        with _no_sharing():
            return learner.learn(scored)

    norms = [update(0)["grad_norm"] for update in (alone, shared)]
    if not math.isclose(*norms, rel_tol=1e-3):
        raise RuntimeError(f"the gradients with and without shared prompts differ: their norms are {norms}")
    _take_turns(report, "shared_prompt_step", alone, shared)


def _sampling_by(kind: type[InProcessSampler], policy: Policy) -> Callable[[int], list[list[Rollout]]]:
    asked = [problem.messages for problem in family_problems(COLLAPSE.family, PROMPTS, "train", seed=0)]
    sampler = kind(policy, WordCodec(), asked)

    def sample(seed: int) -> list[list[Rollout]]:
        return sampler.sample(asked, n=GROUP_SIZE, max_tokens=COMPLETION_TOKENS, temperature=1.0, seed=seed)

    return sample


@contextmanager
def _no_sharing() -> Iterator[None]:
    saving, shared_prompts.LEAST_SAVING = shared_prompts.LEAST_SAVING, math.inf
    try:
        yield
    finally:
        shared_prompts.LEAST_SAVING = saving


def _take_turns(report: Report, name: str, plain: Callable[[int], object], ours: Callable[[int], object]) -> None:
    sides = {"plain": plain, "ours": ours}
    ratios = []
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(1, TURNS + 1):
        for side in list(sides) if turn % 2 else list(sides)[::-1]:
            started = time.perf_counter()
            sides[side](turn)
            seconds[side].append(time.perf_counter() - started)
        ratios.append(seconds["plain"][-1] / seconds["ours"][-1])
    for side, times in seconds.items():
        print(f"{name}: {side} {statistics.median(times) * 1000:.1f} ms", flush=True)
    ratio, margin = pseudomedian(ratios)
    report.result(f"{name}_speedup", ratio)
    report.result(f"{name}_speedup_margin", margin, "(95%)")
