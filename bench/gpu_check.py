"""Checks on one CUDA device what the tests check on the CPU: `python -m bench.gpu_check`.

    python -m bench.gpu_check [--model FOLDER_OR_ID] [--only STEP ...] [--limit 600] [--rehearse]

Every step runs in a process of its own, with a limit of time, and the next one runs whatever came of it. The exit
status is 0 if all steps passed, 1 if one failed, and 2 if something is missing without which none can run. A rehearsal
runs the same steps on the CPU, with a tiny policy and at a size that shows nothing. docs/gpu.md explains the figures.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.figures import RESULTS, Report
from bench.gpu_run import Outcome, run_step
from bench.gpu_steps import EXACTLY_NONE, SOME, Check, Step, at_most
from reheatd.config_tables import BUILTIN_POLICY
from reheatd.engine.policy_model import resolve_policy
from reheatd.errors import MissingExtraError, ReheatdError
from reheatd.process.gpus import Gpu, visible_gpus

TRAINING, SERVING = "bench.gpu_steps_training", "bench.gpu_steps_serving"
ENGINE = ("torch", "transformers", "peft", "vllm", "openai", "rich")
LOSSES = ("forward_kl", "reverse_kl", "jsd", "live_teacher", "logprobs", "entropy")
LIMITS = {"error_fp32": 1e-4, "gradient_error_fp32": 1e-3, "error_bf16": 5e-2, "gradient_error_bf16": 5e-2}
"""Limits of relative errors against float64. On a CPU, the largest are 2e-5, 2e-4, 0.008 and 0.015: an entropy is a sum
over the vocabulary, and in bfloat16 logits are rounded to 8 bits before a loss sees them."""

STEPS = (
    Step(
        "losses",
        f"{TRAINING}:losses",
        90,
        {f"{loss}_{kind}": at_most(limit) for loss in LOSSES for kind, limit in LIMITS.items()},
    ),
    Step(
        "gradients",
        f"{TRAINING}:gradients",
        90,
        {"packed_vs_padded": at_most(1e-5), "checkpointed_vs_kept": at_most(1e-5), "vs_cpu": at_most(1e-4)},
    ),
    Step("ts_opsd", f"{TRAINING}:ts_opsd", 90, {"weights_moved": SOME, "grad_norm": SOME}),
    Step("rl", f"{TRAINING}:rl", 90, {"weights_moved": SOME, "grad_norm": SOME, "logprob_gap": at_most(0.05)}),
    Step("plan", f"{TRAINING}:plan", 90, {"taken_vs_planned": at_most(1.15)}),
    Step(
        "serving",
        f"{SERVING}:serving",
        180,
        {"missing_tokens": EXACTLY_NONE, "failed_requests": EXACTLY_NONE},
        ENGINE,
    ),
    Step(
        "tap",
        f"{SERVING}:tap",
        180,
        {
            "v2_runner": (1.0, 1.0),
            "error_nats": at_most(1e-3),
            "surplus_tokens": EXACTLY_NONE,
            "below_lower_bound": at_most(0.01),
            "above_upper_bound": at_most(0.01),
        },
        ENGINE,
    ),
    Step(
        "swap",
        f"{SERVING}:swap",
        180,
        {"swaps": SOME, "failed_requests": EXACTLY_NONE, "wrong_version_answers": EXACTLY_NONE},
        ENGINE,
    ),
    Step(
        "distill",
        "bench.gpu_steps_speed:distill",
        120,
        {"loss_vs_trl": (0.8, 1.25)},
        ("torch", "transformers", "peft", "trl"),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check")
    parser.add_argument("--model", help=f"folder or Hugging Face id of the policy; default: {BUILTIN_POLICY}")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="steps to run; default: all")
    parser.add_argument("--limit", type=float, default=600, help="seconds for all steps together")
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU, at a size that shows nothing")
    options = parser.parse_args(arguments)
    steps = [step for step in STEPS if options.only is None or step.name in options.only]
    gpu = None if options.rehearse else next(iter(visible_gpus()), None)
    if lacking := missing(steps, gpu, rehearsal=options.rehearse):
        print(f"gpu-check: {lacking}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="reheatd-gpu-") as scratch:
        try:
            model = policy_folder(options.model, Path(scratch), rehearsal=options.rehearse)
        except ReheatdError as error:
            print(f"gpu-check: {error}", file=sys.stderr)
            return 2
        return run_all(steps, gpu, model, Path(scratch), options.limit)


def missing(steps: Sequence[Step], gpu: Gpu | None, *, rehearsal: bool) -> str | None:
    """What is missing for these steps, in one line with the way out; None if nothing is."""
    setup = "make setup ENGINE=cuda"
    if gpu is None and not rehearsal:
        return "no NVIDIA driver lists a GPU here (nvidia-smi -L); run it where one does"
    needed = {package: step.name for step in steps for package in step.needs}
    for package, step in needed.items():
        if importlib.util.find_spec(package) is None:
            others = [other.name for other in steps if package not in other.needs]
            way_out = f", or leave it out: --only {' '.join(others)}" if others else ""
            return f"{package} is not installed, which the step {step} needs; {setup}{way_out}"
    if gpu is not None:
        import torch

        if not torch.cuda.is_available():
            return f"torch {torch.__version__} finds no CUDA device; install the build with CUDA: {setup}"
    return None


def policy_folder(model: str | None, scratch: Path, *, rehearsal: bool) -> Path:
    """The policy's folder. Without a name, it is the built-in one or, if that is not installed, a tiny random one."""
    if model is None and not rehearsal:
        try:
            return resolve_policy(BUILTIN_POLICY)
        except MissingExtraError:
            pass
    if model is not None:
        return resolve_policy(model, "--model")
    from tests.tiny_policy import build_tiny_policy

    return build_tiny_policy(scratch / "tiny-policy")


def run_all(steps: Sequence[Step], gpu: Gpu | None, model: Path, scratch: Path, limit_s: float) -> int:
    """Runs all steps, prints and writes what came of them; the exit status."""
    report = Report("gpu-check" if gpu else "gpu-check-rehearsal")
    RESULTS.mkdir(exist_ok=True)
    log = RESULTS / f"{report.bench}.log"
    log.write_bytes(b"")
    card = describe(gpu) if gpu else None  # before a step can take the driver down
    print(f"policy {model.name} on {card['name'] if card else 'the CPU'}", flush=True)
    begun, outcomes = time.monotonic(), dict[str, Outcome]()
    for step in steps:
        folder = scratch / step.name
        folder.mkdir()
        check = Check("cuda" if gpu else "cpu", str(model), "full" if gpu else "toy", str(folder))
        left_s = begun + limit_s - time.monotonic()
        outcome = (
            run_step(step, check, log, left_s, gpu)
            if left_s > 0
            else Outcome(0.0, None, {}, "no time was left; raise --limit")
        )
        outcomes[step.name] = outcome
        memory = "" if outcome.peak_gpu_mib is None else f"{outcome.peak_gpu_mib:8.0f} MiB"
        print(f"{step.name:10} {outcome.seconds:6.1f} s {memory} {outcome.error or 'ok'}", flush=True)
    for name, outcome in outcomes.items():
        report.result(f"{name}_passed", float(outcome.error is None))
        report.result(f"{name}_s", outcome.seconds, "s")
        if outcome.peak_gpu_mib is not None:
            report.result(f"{name}_peak_gpu_mib", outcome.peak_gpu_mib, "MiB")
        for figure, value in outcome.figures.items():
            report.result(f"{name}_{figure}", value)
    failed = sum(outcome.error is not None for outcome in outcomes.values())
    report.result("failed_steps", failed)
    report.write(
        model=model.name,
        seconds=round(time.monotonic() - begun, 1),
        gpu=card,
        steps={name: asdict(outcome) for name, outcome in outcomes.items()},
    )
    if failed:
        print(f"{failed} of {len(steps)} steps failed; what they printed is in {log}")
    return 1 if failed else 0


def describe(gpu: Gpu) -> dict[str, Any]:
    """The card, its driver and what torch was built with."""
    import torch

    query = ["nvidia-smi", "-i", gpu.index, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    printed = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    name, driver, memory = [part.strip() for part in printed.split(",")]
    return {"name": name, "driver": driver, "memory": memory, "cuda": torch.version.cuda}


if __name__ == "__main__":
    sys.exit(main())
