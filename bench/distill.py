"""Compares TS-OPSD with TRL: the loss alone at two vocabulary sizes, and a whole training step of SmolLM2-135M.

    python -m bench.distill [--prompts 16] [--max-tokens 256] [--steps 3] [--only loss|step]

Both sides run one after the other on the same inputs, each in a process of its own. The first step of each is not
timed, because libraries load and compile in it. TRL runs with gradient checkpointing, its default, and without: the
faster setting counts for speed, and the leaner one for memory. On a GPU, Liger's loss is a third side.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.figures import Report
from bench.rollout_file import read_rollouts, write_rollouts
from bench.sides import run_side

LOSS_TOKENS, LOSS_WIDTH = 1024, 1024
VOCABULARIES = (49_152, 151_936)  # SmolLM2's and Qwen3's
TAU = 1.5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=16, help="rollouts per step, a multiple of 8")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest rollout")
    parser.add_argument("--steps", type=int, default=3, help="steps per side, the first one not timed")
    parser.add_argument("--only", choices=("loss", "step"))
    options = parser.parse_args()
    report = Report("distill")
    details: dict[str, Any] = vars(options) | {"tau": TAU}
    if options.only != "step":
        details["loss"] = compare_losses(report)
    if options.only != "loss":
        details["step"] = compare_steps(report, options.prompts, options.max_tokens, options.steps)
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


def seconds(run: dict[str, Any]) -> float:
    return statistics.median(run["seconds"][1:])


def show(what: str, side: str, run: dict[str, Any]) -> None:
    print(f"{what}: {side:22} {seconds(run):7.2f} s {run['peak_mib']:6.0f} MiB, loss {run['loss']:.4f}", flush=True)


if __name__ == "__main__":
    main()
