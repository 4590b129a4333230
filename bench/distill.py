"""Compares TS-OPSD with TRL: the loss alone, and whole training steps of SmolLM2-135M on short and on long rollouts.

    python -m bench.distill [--prompts 16] [--max-tokens 256] [--steps 3] [--long-tokens 4096] [--only PART]

The parts are loss, step, long and memory. `memory` measures what gradient checkpointing saves in one pass over
`--long-tokens` tokens. `long` takes steps on rollouts of mixed lengths up to that one, in which both sides checkpoint
their layers and neither pads: TRL's trainer has no packing, so it gets one sequence at a time.

Both sides run one after the other on the same inputs, each in a process of its own. The first step of each is not
timed, because libraries load and compile in it. TRL runs with gradient checkpointing, its default, and without: the
faster setting counts for speed, and the leaner one for memory. On a GPU, Liger's loss is a third side.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.figures import Report
from bench.long_steps import compare_long_steps, mixed_lengths
from bench.rollout_file import read_rollouts, write_rollouts
from bench.sides import run_side, seconds, show

LOSS_TOKENS, LOSS_WIDTH = 1024, 1024
VOCABULARIES = (49_152, 151_936)  # SmolLM2's and Qwen3's
TAU = 1.5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=16, help="rollouts per step, a multiple of 8")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest rollout")
    parser.add_argument("--steps", type=int, default=3, help="steps per side, the first one not timed")
    parser.add_argument(
        "--long-tokens", type=int, default=4096, help="longest sequence of the parts memory and long, at least 1024"
    )
    parser.add_argument("--only", choices=("loss", "step", "memory", "long"))
    options = parser.parse_args()
    report = Report("distill")
    details: dict[str, Any] = vars(options) | {"tau": TAU}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "loss": lambda: compare_losses(report),
        "step": lambda: compare_steps(report, options.prompts, options.max_tokens, options.steps),
        "memory": lambda: compare_checkpointing(report, options.long_tokens),
        "long": lambda: compare_long_distillation(report, options.long_tokens),
    }
    for name, compare in parts.items():
        if options.only in (None, name):
            details[name] = compare()
    report.write(**details)


def compare_losses(report: Report) -> dict[str, Any]:
    """Compares forward KL and its gradient, computed from the hidden states of `LOSS_TOKENS` tokens in bfloat16."""
    sides = ["fused", "naive", "trl", *(["liger"] if torch.cuda.is_available() else [])]
    runs: dict[str, Any] = {}
    for vocabulary in VOCABULARIES:
        options = {"tokens": LOSS_TOKENS, "width": LOSS_WIDTH, "vocabulary": vocabulary, "rounds": 4}
        runs[str(vocabulary)] = measured = {side: run_side("bench.loss_sides", side, options) for side in sides}
        for side in sides:
            show(f"loss, vocabulary {vocabulary}", side, measured[side])
        for other in sides[1:]:
            peak = measured["fused"]["peak_mib"] / measured[other]["peak_mib"]
            report.result(f"loss_peak_memory_vs_{other}_v{vocabulary}", peak)
            report.result(f"loss_time_vs_{other}_v{vocabulary}", seconds(measured["fused"]) / seconds(measured[other]))
    return runs


def compare_steps(report: Report, prompts: int, max_tokens: int, steps: int) -> dict[str, Any]:
    """Compares a whole optimiser step on recorded rollouts: teacher and student forward, loss, backward, update."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rollouts.json"
        write_rollouts(file, prompts=prompts, n=1, max_tokens=max_tokens)
        tokens = sum(len(rollout.token_ids) for group in read_rollouts(file) for rollout in group)
        print(f"{prompts} rollouts, {tokens} completion tokens per step", flush=True)
        options = {"rollouts": str(file), "tau": TAU, "steps": steps}
        runs = {
            "reheatd": run_side("bench.distill_sides", "reheatd", options),
            "reheatd, live teacher": run_side("bench.distill_sides", "reheatd", options | {"teacher": "live"}),
            "trl": run_side("bench.distill_sides", "trl", options | {"checkpointing": False}),
            "trl, checkpointing": run_side("bench.distill_sides", "trl", options | {"checkpointing": True}),
        }
    for name, run in runs.items():
        show("step", name, run)
    rivals = [runs["trl"], runs["trl, checkpointing"]]
    report.result("step_tokens_per_s", tokens / seconds(runs["reheatd"]))
    report.result("step_speedup_vs_trl", min(map(seconds, rivals)) / seconds(runs["reheatd"]))
    report.result("step_peak_memory_vs_trl", runs["reheatd"]["peak_mib"] / min(rival["peak_mib"] for rival in rivals))
    return runs


def compare_checkpointing(report: Report, tokens: int) -> dict[str, Any]:
    """Compares the peak memory of one training pass with and without gradient checkpointing."""
    runs = {
        name: run_side("bench.memory_sides", "pass", {"tokens": tokens, "checkpointing": checkpointing})
        for name, checkpointing in {"checkpointed": True, "plain": False}.items()
    }
    for name, run in runs.items():
        show(f"one pass, {tokens} tokens", name, run)
    report.result("activation_memory_vs_plain", runs["checkpointed"]["peak_mib"] / runs["plain"]["peak_mib"])
    return runs


def compare_long_distillation(report: Report, longest: int) -> dict[str, Any]:
    """Compares a whole optimiser step on rollouts of `longest` tokens and less."""
    ours = {"tau": TAU, "checkpointing": True}
    groups = [[length] for length in mixed_lengths(longest)]
    return compare_long_steps(report, "bench.distill_sides", groups, ours, ours | {"batch": 1})


if __name__ == "__main__":
    main()
