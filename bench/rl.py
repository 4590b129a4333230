"""Compares RL updates, rollouts and steps with other ways: `python -m bench.rl [--only trl|long|countdown|overlap]`.

    python -m bench.rl --only trl [--prompts 4] [--group-size 8] [--max-tokens 128] [--steps 3]

takes a whole RL update of SmolLM2-135M and TRL's GRPOTrainer, on the same recorded groups and rewards. Both sides run
one after the other, each in a process of its own; the first step of each is not timed. TRL runs with gradient
checkpointing, its default, and without: the faster setting counts for speed, and the leaner one for memory.

    python -m bench.rl --only long [--long-tokens 4096]

takes the same update on two groups of rollouts of mixed lengths up to that one, in which both sides checkpoint their
layers. GRPOTrainer cannot pack rollouts: it pads all that it generates together to the longest. So it generates one
group at a time, which pads least, and trains on one rollout at a time. TRL packs in its experimental AsyncGRPOTrainer
only, which needs a vLLM server and FlashAttention 3. Its switch for Liger's kernels, which are for GPUs, is off.

    python -m bench.rl --only countdown

compares sampling in process and updates on Countdown with their plain ways; see `bench.countdown_turns`.

    python -m bench.rl --only overlap

compares jobs of a real daemon with `rl.staleness` 0 and 1; see `bench.overlap`.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from bench.countdown_turns import countdown_turns
from bench.figures import Report
from bench.long_steps import compare_long_steps, mixed_lengths
from bench.overlap import compare_staleness
from bench.rollout_file import read_rollouts, write_rollouts
from bench.sides import run_side, seconds, show


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=4, help="problems per step")
    parser.add_argument("--group-size", type=int, default=8, help="rollouts per problem")
    parser.add_argument("--max-tokens", type=int, default=128, help="longest rollout")
    parser.add_argument("--steps", type=int, default=3, help="steps per side, the first one not timed")
    parser.add_argument(
        "--long-tokens", type=int, default=4096, help="longest sequence of the part long, at least 1024"
    )
    parser.add_argument("--only", choices=("trl", "long", "countdown", "overlap"))
    options = parser.parse_args()
    report = Report("rl")
    details: dict[str, Any] = vars(options)
    if options.only in (None, "trl"):
        details["runs"] = compare_updates(
            report, options.prompts, options.group_size, options.max_tokens, options.steps
        )
    if options.only in (None, "long"):
        details["long"] = compare_long_updates(report, options.long_tokens)
    if options.only in (None, "countdown"):
        details["countdown"] = countdown_turns(report)
    if options.only in (None, "overlap"):
        details["overlap"] = compare_staleness(report)
    report.write(**details)


def compare_updates(report: Report, prompts: int, group_size: int, max_tokens: int, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rollouts.json"
        write_rollouts(file, prompts=prompts, n=group_size, max_tokens=max_tokens)
        tokens = sum(len(rollout.token_ids) for group in read_rollouts(file) for rollout in group)
        print(f"{prompts} x {group_size} rollouts, {tokens} completion tokens per update", flush=True)
        common = {"rollouts": str(file), "steps": steps}
        runs = {
            "reheatd": run_side("bench.rl_sides", "reheatd", common),
            "trl": run_side("bench.rl_sides", "trl", common | {"checkpointing": False}),
            "trl, checkpointing": run_side("bench.rl_sides", "trl", common | {"checkpointing": True}),
        }
    for name, run in runs.items():
        show("update", name, run)
    ours, rivals = runs["reheatd"], [runs["trl"], runs["trl, checkpointing"]]
    report.result("update_tokens_per_s", tokens / seconds(ours))
    report.result("update_speedup_vs_trl", min(map(seconds, rivals)) / seconds(ours))
    report.result("update_peak_memory_vs_trl", ours["peak_mib"] / min(rival["peak_mib"] for rival in rivals))
    return runs


def compare_long_updates(report: Report, longest: int) -> dict[str, Any]:
    """Compares a whole update on two groups, of which each has rollouts of almost all lengths."""
    lengths = mixed_lengths(longest)
    options = {"checkpointing": True}
    groups = [lengths[::2], lengths[1::2]]
    return compare_long_steps(report, "bench.rl_sides", groups, options, options | {"batch": 1}, prefix="rl_")


if __name__ == "__main__":
    main()
