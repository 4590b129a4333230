"""Runs as trainers log them: their shapes, their metric names and the files they write."""

import csv
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, float]
"""One step by signal: entropy, reward, grad_norm, failed and passed (shares of groups), length."""


def noisy(rng: random.Random, value: float, share: float = 0.04) -> float:
    return value * (1 + share * rng.gauss(0, 1))


def run(entropy: Callable[[int], float], *, steps: int, seed: int = 0, **others: Callable[[int], float]) -> list[Row]:
    """A run whose signals are these functions of the step, with noise; all that are not given are a healthy run's."""
    rng = random.Random(seed)
    shape: dict[str, Callable[[int], float]] = {
        "reward": lambda step: 0.2 + 0.25 * (1 - math.exp(-step / 15)) + 0.0004 * step,
        "grad_norm": lambda _: 0.15,
        "failed": lambda _: 0.2,
        "passed": lambda _: 0.2,
        "length": lambda step: 800 + step,
    } | others
    return [
        {"entropy": noisy(rng, entropy(step))} | {name: noisy(rng, of(step), 0.02) for name, of in shape.items()}
        for step in range(steps)
    ]


def falls(step: int) -> float:
    """The fall of the paper's run: 0.8 nats to 0.11 in 30 steps, while reward climbs."""
    return 0.11 + 0.69 * math.exp(-step / 8)


def healthy() -> list[Row]:
    """The paper's run before it collapses: 400 steps between 0.10 and 0.12 nats."""
    return run(falls, steps=430)


def collapsed() -> list[Row]:
    """The paper's run to its end: below 0.08 nats at step 420."""
    return run(lambda step: falls(step) - max(0, step - 370) * 0.0007, steps=500)


def few_prompts() -> list[Row]:
    """The paper's run on 2,048 prompts: below 0.04 nats, the gradient spikes from 180 on, reward falls from 270 on."""
    return run(
        lambda step: 0.035 + 0.77 * math.exp(-step / 30),
        steps=400,
        reward=lambda step: 0.2 + 0.3 * (1 - math.exp(-step / 30)) - max(0, step - 270) * 0.001,
        grad_norm=lambda step: 3.0 if step >= 180 and step % 15 == 0 else 0.15,
    )


def too_hot() -> list[Row]:
    """A healthy run that runs away from step 300 on."""
    return run(lambda step: falls(step) * math.exp(max(0, step - 300) / 12), steps=350)


def stalled() -> list[Row]:
    """A run whose problems change at step 200 for ones of which it solves none."""
    return run(
        falls,
        steps=300,
        reward=lambda step: 0.4 if step < 200 else 0.0,
        failed=lambda step: 0.3 if step < 200 else 1.0,
        passed=lambda step: 0.3 if step < 200 else 0.0,
    )


SHAPES: dict[str, Callable[[], list[Row]]] = {
    "healthy": healthy,
    "collapsed": collapsed,
    "too_hot": too_hot,
    "stalled": stalled,
}


def trl(step: int, row: Row) -> dict[str, Any]:
    """An entry of TRL's log_history."""
    return {
        "step": step + 1,
        "epoch": step / 100,
        "loss": 0.01,
        "entropy": row["entropy"],
        "reward": row["reward"],
        "reward_std": 0.4,
        "grad_norm": row["grad_norm"],
        "frac_reward_zero_std": min(1.0, row["failed"] + row["passed"]),
        "completions/mean_length": row["length"],
        "clip_ratio/region_mean": 0.0,
    }


def trl_reported(step: int, row: Row) -> dict[str, Any]:
    """The same as transformers' callbacks for W&B and TensorBoard write it."""
    logged = trl(step, row)
    number = logged.pop("step")
    return {f"train/{name}": value for name, value in logged.items()} | {"train/global_step": number}


def verl(step: int, row: Row) -> dict[str, Any]:
    return {
        "training/global_step": step + 1,
        "actor/entropy": row["entropy"],
        "actor/grad_norm": row["grad_norm"],
        "actor/pg_loss": 0.01,
        "critic/score/mean": row["reward"],
        "critic/rewards/mean": row["reward"],
        "response_length/mean": row["length"],
        "response_length/clip_ratio": 0.0,
    }


def prime_rl(step: int, row: Row) -> list[dict[str, Any]]:
    """What its trainer and its orchestrator write to one metrics.jsonl."""
    trainer = {"entropy/all/mean": row["entropy"], "optim/grad_norm": row["grad_norm"], "loss/mean": 0.01}
    orchestrator = {
        "train/agg/all/agent/reward/mean": row["reward"],
        "train/agg/all/agent/solved_none": row["failed"],
        "train/agg/all/agent/solved_all": row["passed"],
        "train/agg/all/num_output_tokens/mean": row["length"],
        "train/math/all/agent/reward/mean": row["reward"],
    }
    return [{"step": step, "time": 1e9 + step, **part} for part in (orchestrator, trainer)]


def sky_rl(_: int, row: Row) -> dict[str, Any]:
    return {
        "policy/policy_entropy": row["entropy"],
        "policy/grad_norm": row["grad_norm"],
        "reward/avg_raw_reward": row["reward"],
        "reward/avg_pass_at_8": 1 - row["failed"],
        "generate/avg_num_tokens": row["length"],
    }


def open_rlhf(step: int, row: Row) -> dict[str, Any]:
    return {
        "train/entropy_loss": row["entropy"],
        "train/actor_grad_norm": row["grad_norm"],
        "train/rollout/reward_mean": row["reward"],
        "train/rollout/response_length_mean": row["length"],
        "train/policy_loss": 0.01,
        "train/global_step": step + 1,
    }


def write_json_lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, names)
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_tensorboard(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes with the writer that TRL, verl, SkyRL and OpenRLHF use."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for place, row in enumerate(rows, start=1):
            for name, value in row.items():
                writer.add_scalar(name, value, place)
        writer.add_text("samples", "a completion", len(rows))
    return folder


@dataclass
class Recorded:
    """A log with what is known of it."""

    path: Path
    trainer: str
    group_shares: bool
    """Whether it tells groups without variance from others."""
