"""Compares a whole RL update of SmolLM2-135M with TRL's GRPOTrainer, on the same recorded groups and rewards.

    python -m bench.rl [--prompts 4] [--group-size 8] [--max-tokens 128] [--steps 3]

Both sides run one after the other, each in a process of its own; the first step of each is not timed. TRL runs with
gradient checkpointing, its default, and without: the faster setting counts for speed, and the leaner one for memory.
"""

import argparse
import tempfile
from pathlib import Path

from bench.distill import seconds
from bench.figures import Report
from bench.rollout_file import read_rollouts, write_rollouts
from bench.sides import run_side


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=4, help="problems per step")
    parser.add_argument("--group-size", type=int, default=8, help="rollouts per problem")
    parser.add_argument("--max-tokens", type=int, default=128, help="longest rollout")
    parser.add_argument("--steps", type=int, default=3, help="steps per side, the first one not timed")
    options = parser.parse_args()
    report = Report("rl")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rollouts.json"
        write_rollouts(file, prompts=options.prompts, n=options.group_size, max_tokens=options.max_tokens)
        tokens = sum(len(rollout.token_ids) for group in read_rollouts(file) for rollout in group)
        print(f"{options.prompts} x {options.group_size} rollouts, {tokens} completion tokens per update", flush=True)
        common = {"rollouts": str(file), "steps": options.steps}
        runs = {
            "reheatd": run_side("bench.rl_sides", "reheatd", common),
            "trl": run_side("bench.rl_sides", "trl", common | {"checkpointing": False}),
            "trl, checkpointing": run_side("bench.rl_sides", "trl", common | {"checkpointing": True}),
        }
    for name, run in runs.items():
        print(f"{name:20} {seconds(run):7.2f} s {run['peak_mib']:6.0f} MiB, entropy {run['entropy']:.4f}", flush=True)
    ours, rivals = runs["reheatd"], [runs["trl"], runs["trl, checkpointing"]]
    report.result("update_tokens_per_s", tokens / seconds(ours))
    report.result("update_speedup_vs_trl", min(map(seconds, rivals)) / seconds(ours))
    report.result("update_peak_memory_vs_trl", ours["peak_mib"] / min(rival["peak_mib"] for rival in rivals))
    report.write(**vars(options), runs=runs)


if __name__ == "__main__":
    main()
