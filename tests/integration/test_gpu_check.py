"""The GPU check's steps that serve, and its comparison with TRL, on the CPU at toy size."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu_check import STEPS
from bench.gpu_run import run_step
from bench.gpu_steps import Check, Figures, Step
from bench.gpu_steps_serving import swap_figures
from tests.waiting import HANGS_S

BY_NAME = {step.name: step for step in STEPS}


@pytest.fixture
def check(tiny_policy: Path, tmp_path: Path) -> Check:
    return Check("cpu", str(tiny_policy), "toy", str(tmp_path))


def assert_passed(step: Step, found: Figures) -> None:
    assert step.fault(found) is None, found
    assert set(step.bounds) <= set(found)


def test_a_daemon_serves(check: Check) -> None:
    step = BY_NAME["serving"]
    assert_passed(step, step.load()(check))


def test_swaps_under_load(check: Check, engine: str) -> None:
    found = swap_figures(engine, check)
    assert_passed(BY_NAME["swap"], found)
    assert found["swaps"] == check.size.pace.swaps


def test_the_comparison_with_trl(check: Check, tmp_path: Path) -> None:
    """In a process of its own, as in the check: whoever imports TRL turns off the log of every vLLM started later."""
    log = tmp_path / "check.txt"
    outcome = run_step(replace(BY_NAME["distill"], limit_s=HANGS_S), check, log, HANGS_S, None)
    assert outcome.error is None, log.read_text()
