"""Rollouts of SmolLM2-135M, kept in a file, that both sides of a benchmark train on."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from reheatd.config_tables import BUILTIN_POLICY
from reheatd.engine.policy_model import resolve_policy
from reheatd.options import LoraOptions, TaskOptions, WindowOptions
from reheatd.task_data import load_task
from workers.policy import Policy
from workers.sampling.in_process import ChatCodec, InProcessSampler
from workers.sampling.rollout import Rollout

PLAIN_TOKENS = (1000, 20_000)
"""Range of SmolLM2's vocabulary without special tokens, one of which would end a rollout."""


def policy_path() -> Path:
    """Folder of SmolLM2-135M-Instruct, the policy of every benchmark here."""
    return resolve_policy(BUILTIN_POLICY)


def write_rollouts(path: Path, *, prompts: int, n: int, max_tokens: int, model: Path | None = None) -> None:
    """Samples `n` completions of each of the first prompts of the bundled task at temperature 1."""
    policy = Policy.load(model or policy_path(), LoraOptions())
    messages = [problem.messages for problem in load_task(TaskOptions(), WindowOptions()).train[:prompts]]
    sampler = InProcessSampler(policy, ChatCodec(policy), messages)
    groups = sampler.sample(messages, n=n, max_tokens=max_tokens, temperature=1.0, seed=0)
    path.write_text(json.dumps([[asdict(rollout) for rollout in group] for group in groups]))


def write_long_rollouts(path: Path, groups: Sequence[Sequence[int]]) -> None:
    """Writes groups of rollouts of random tokens, with the probabilities that the policy in bfloat16 gives them.

    Args:
        groups: The length of each rollout with its prompt. Each group has one of the bundled task's prompts.
    """
    policy = Policy.load(policy_path(), LoraOptions(), dtype="bfloat16")
    codec = ChatCodec(policy)
    generator = torch.Generator().manual_seed(0)
    problems = load_task(TaskOptions(), WindowOptions()).train[: len(groups)]
    written: list[list[dict[str, Any]]] = []
    for problem, lengths in zip(problems, groups, strict=True):
        prompt = codec.encode(problem.messages)
        completions: list[list[int]] = [
            torch.randint(*PLAIN_TOKENS, (length - len(prompt),), generator=generator).tolist() for length in lengths
        ]
        written.append(
            [
                asdict(Rollout(prompt, ids, codec.decode(ids), policy.logprobs([(prompt, ids)])[0], "random", False))
                for ids in completions
            ]
        )
    path.write_text(json.dumps(written))


def read_rollouts(path: Path) -> list[list[Rollout]]:
    groups: list[list[dict[str, Any]]] = json.loads(path.read_text())
    return [[Rollout(**fields) for fields in group] for group in groups]
