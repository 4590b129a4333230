"""Runs one side of a comparison in a process of its own, so that its peak memory can be measured."""

import ctypes
import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def run_side(module: str, side: str, options: dict[str, Any]) -> dict[str, Any]:
    """Runs `python -m module side options`, and returns the JSON that it prints on its last line.

    Raises:
        RuntimeError: The process failed; its output was shown.
    """
    command = [sys.executable, "-m", module, side, json.dumps(options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def print_side(sides: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Runs the side that the command line names, and prints its result as JSON for `run_side`."""
    options = json.loads(sys.argv[2])
    options["rollouts"] = Path(options["rollouts"])
    print(json.dumps(sides[sys.argv[1]](**options)))


def seconds(run: dict[str, Any]) -> float:
    """The median time of a side's steps, or of its rounds, without the first one."""
    return statistics.median(run["seconds"][1:])


def show(what: str, side: str, run: dict[str, Any]) -> None:
    """Prints one line about a side's run, with the figures by which the sides can be compared."""
    figures = ", ".join(f"{name} {run[name]:.4f}" for name in ("loss", "entropy", "grad_norm") if name in run)
    print(f"{what}: {side:22} {seconds(run):7.2f} s {run['peak_mib']:6.0f} MiB, {figures}", flush=True)


class PeakMemory:
    """The peak of resident memory since the object was made, less the memory at that moment, in MiB, on Linux."""

    def __init__(self) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        self._before = _status_mib("VmRSS")

    def mib(self) -> float:
        return _status_mib("VmHWM") - self._before


class CudaPeakMemory:
    """The peak of the memory that torch allocates on the GPU, measured like `PeakMemory`."""

    def __init__(self) -> None:
        gc.collect()
        torch.cuda.init()  # without a context there are no figures to reset
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()

    def mib(self) -> float:
        return (torch.cuda.max_memory_allocated() - self._before) / 2**20


def peak_memory() -> PeakMemory | CudaPeakMemory:
    """Measures the memory of the GPU if there is one, else that of the process."""
    return CudaPeakMemory() if torch.cuda.is_available() else PeakMemory()


def _status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
