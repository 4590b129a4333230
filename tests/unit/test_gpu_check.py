"""The GPU check on the CPU: its steps without an engine at toy size, and what it does about those that fail."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch

from bench import figures, gpu_check, gpu_steps_training
from bench.gpu_check import STEPS, main, missing, run_all
from bench.gpu_run import run_step
from bench.gpu_steps import EXACTLY_NONE, Check, Step, at_most
from bench.gpu_steps_training import planned_worker
from reheatd.plan.fit import Machine
from tests.engine_process import start_engine
from tests.unit.test_plan_fit import GIB, demand, on
from workers.losses import chunked_divergence

BY_NAME = {step.name: step for step in STEPS}
BROKEN = "tests.unit.broken_steps"


@pytest.fixture
def check(tiny_policy: Path, tmp_path: Path) -> Check:
    return Check("cpu", str(tiny_policy), "toy", str(tmp_path))


@pytest.mark.parametrize("name", ["losses", "gradients", "ts_opsd", "rl", "plan"])
def test_a_step_passes_on_the_cpu(name: str, check: Check) -> None:
    step = BY_NAME[name]
    found = step.load()(check)
    assert step.fault(found) is None
    assert set(step.bounds) <= set(found)


def test_a_wrong_loss_is_noticed(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a kernel that rounds more than it may."""

    def coarse(student_TD: torch.Tensor, *rest: torch.Tensor, **options: object) -> tuple[torch.Tensor, ...]:
        values = chunked_divergence(student_TD, *rest, **options)  # pyright: ignore[reportArgumentType]
        return values if student_TD.dtype == torch.float64 else (values[0] * 1.001, *values[1:])

    monkeypatch.setattr(gpu_steps_training, "chunked_divergence", coarse)
    step = BY_NAME["losses"]
    fault = step.fault(step.load()(check))
    assert fault is not None and fault.startswith("forward_kl_error_fp32 is 0.00")


def test_memory_is_planned_for_a_worker_that_has_the_gpu_to_itself() -> None:
    """Beside an engine, this policy's layers would be checkpointed."""
    planned = planned_worker(demand("4B"), Machine("cuda", 48 * GIB, 2))
    assert planned == on(48, 2, demand("4B")).worker
    assert planned.total > 2 * on(48, 1, demand("4B")).worker.total


def test_an_engine_of_the_check_gets_the_gpu_that_the_step_sees(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n[ $1 = -L ] && printf 'GPU 0: A (UUID: GPU-a)\\nGPU 1: B (UUID: GPU-b)' || echo GPU-b, 24564\n"
    )
    program.chmod(0o755)
    (tmp_path / "shown.py").write_text(
        "import os, sys\nprint(sys.argv[sys.argv.index('--gpu-memory-utilization') + 1])\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    log, paths = tmp_path / "engine.log", f"{Path.cwd()}:{tmp_path}"
    _, process = start_engine(tiny_policy, log, device="cuda", server="shown", env={"PYTHONPATH": paths})
    assert process.wait() == 0
    share, gpus = log.read_text().split()
    assert 0.1 < float(share) <= 0.9 and gpus == "1"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"error": 0.1, "failed": 0.0, "other": 7.0}, None),
        ({"error": 0.3, "failed": 0.0}, "error is 0.3, which is not at most 0.2"),
        ({"error": 0.1, "failed": 2.0}, "failed is 2, which is not 0"),
        ({"error": math.nan, "failed": 0.0}, "error is nan, which is not at most 0.2"),
        ({"error": 0.1, "failed": 0.0, "other": math.inf}, "other is inf"),
        ({"error": 0.1}, "failed was not measured"),
    ],
)
def test_figures_are_held_against_their_bounds(found: dict[str, float], says: str | None) -> None:
    step = Step("step", "", 1.0, {"error": at_most(0.2), "failed": EXACTLY_NONE})
    assert step.fault(found) == says


@pytest.mark.parametrize(
    ("function", "says"),
    [("raises", "ValueError: the first line"), ("is_killed", "it was ended by SIGSEGV"), ("missing", "AttributeError")],
)
def test_why_a_step_failed_is_one_line(function: str, says: str, check: Check, tmp_path: Path) -> None:
    log = tmp_path / "check.txt"
    outcome = run_step(Step("broken", f"{BROKEN}:{function}", 30.0), check, log, 30.0, None)
    assert outcome.error is not None and outcome.error.startswith(says) and "\n" not in outcome.error
    assert ("the engine's last words" in log.read_text()) == (function == "raises")


def test_a_step_that_hangs_is_ended_with_all_that_it_has_started(check: Check, tmp_path: Path) -> None:
    began = time.monotonic()
    assert run_step(Step("fine", f"{BROKEN}:fine", 600.0), check, tmp_path / "check.txt", 600.0, None).error is None
    limit_s = 1.0 + 3 * (time.monotonic() - began)  # long enough for a step that hangs to start what it starts
    outcome = run_step(Step("hangs", f"{BROKEN}:hangs", 600.0), check, tmp_path / "check.txt", limit_s, None)
    assert outcome.error == f"it was ended after its limit of {limit_s:.0f} s"
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def run(
    steps: Sequence[Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_s: float = 60.0
) -> tuple[int, dict]:
    for module in (figures, gpu_check):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    status = run_all(steps, None, tmp_path / "policy", tmp_path, limit_s)
    return status, json.loads((tmp_path / "results/gpu-check-rehearsal.json").read_text())


def test_a_failed_step_does_not_keep_the_others_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [Step(name, f"{BROKEN}:{name}", 30.0) for name in ("raises", "fine")]
    status, written = run(steps, tmp_path, monkeypatch)
    assert status == 1
    broken, fine = written["details"]["steps"]["raises"], written["details"]["steps"]["fine"]
    assert broken["error"] == "ValueError: the first line"
    assert (fine["error"], fine["figures"]) == (None, {"sees_no_gpu": 1.0, "loss": 0.5})
    printed = capsys.readouterr().out
    assert printed.startswith("policy policy on the CPU\n")
    for line in ("RESULT fine_loss=0.5", "RESULT fine_passed=1", "RESULT raises_passed=0", "RESULT failed_steps=1"):
        assert line in printed.splitlines()
    assert written["results"]["fine_loss"] == 0.5


def test_steps_that_all_pass_are_a_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run([Step("fine", f"{BROKEN}:fine", 30.0)], tmp_path, monkeypatch)[0] == 0


def test_what_no_time_is_left_for_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, written = run([Step("fine", f"{BROKEN}:fine", 30.0)], tmp_path, monkeypatch, limit_s=0.0)
    assert (status, written["details"]["steps"]["fine"]["error"]) == (1, "no time was left; raise --limit")


def test_without_a_gpu_it_says_so_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "gpu-check: no NVIDIA driver lists a GPU here (nvidia-smi -L); run it where one does\n"


def test_what_is_not_installed_is_named_with_the_way_out() -> None:
    steps = [Step("one", "", 1.0, needs=("torch",)), Step("two", "", 1.0, needs=("torch", "no_such_package"))]
    says = missing(steps, None, rehearsal=True)
    assert says is not None and says.startswith("no_such_package is not installed, which the step two needs")
    assert says.endswith("--only one")
    assert missing(steps[:1], None, rehearsal=True) is None
