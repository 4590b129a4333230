"""Runs one step of `bench.gpu_check` in a process of its own, with a limit of time and an eye on the GPU's memory.

A kernel that faults takes its process's CUDA context with it, so no two steps share a process.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.gpu_steps import Check, Figures, Step
from reheatd.process.gpus import VISIBLE_ENV, Gpu

LOOK_EVERY_S = 0.5
ENDS_S = 20.0
"""Time that killed processes get to disappear, in seconds."""


@dataclass(frozen=True)
class Outcome:
    """What came of a step."""

    seconds: float
    peak_gpu_mib: float | None
    """The most memory of the GPU that was in use, by whatever process; None without a GPU."""
    figures: Figures
    error: str | None
    """Why it failed, in one line."""


def run_step(step: Step, check: Check, log: Path, limit_s: float, gpu: Gpu | None) -> Outcome:
    """Runs a step, and ends it with all its processes once its time is over.

    Args:
        log: File that its output is appended to and, if it fails, the logs that it leaves behind.
        limit_s: What is left of the time of all steps; its own limit may be less.
        gpu: The only GPU that the step and its processes see, and whose memory is watched; None: they see none.
    """
    limit_s = min(step.limit_s, limit_s)
    found = check.scratch / "outcome.json"
    command = [sys.executable, "-m", "bench.gpu_run", step.function, json.dumps(asdict(check)), str(found)]
    env = {**os.environ, VISIBLE_ENV: gpu.selector if gpu else ""}
    begun = time.perf_counter()
    with log.open("ab") as output, _Memory(gpu) as memory:
        output.write(f"==== {step.name}\n".encode())
        output.flush()
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            error = _wait(process, limit_s)
        finally:
            _end(process)
    figures: Figures = {}
    if error is None:
        said: dict[str, Any] = json.loads(found.read_text())
        figures, error = said["figures"], said["error"]
        error = error or step.fault(figures)
    if error is not None:
        _keep_logs(check.scratch, log)
    return Outcome(time.perf_counter() - begun, memory.most_mib, figures, error)


def _wait(process: "subprocess.Popen[bytes]", limit_s: float) -> str | None:
    """Why the process came to no result, if it did not."""
    try:
        code = process.wait(timeout=max(1.0, limit_s))
    except subprocess.TimeoutExpired:
        return f"it was ended after its limit of {limit_s:.0f} s"
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it exited with {code}" if code else None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process, if it still runs, and all that it has started, which would keep the GPU's memory."""
    tree: list[psutil.Process] = []
    if process.poll() is None:
        tree = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in tree:
        if child.is_running():
            child.kill()
    process.wait()
    psutil.wait_procs(tree, timeout=ENDS_S)


def _keep_logs(folder: Path, log: Path) -> None:
    with log.open("ab") as output:
        for file in sorted(folder.rglob("*.log")):
            output.write(f"---- {file.name}\n".encode() + file.read_bytes())


class _Memory:
    """Looks at a GPU's memory in use, twice a second."""

    def __init__(self, gpu: Gpu | None) -> None:
        self.most_mib: float | None = None
        self._gpu = gpu
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Memory":
        if self._gpu is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._gpu is not None:
            self._thread.join()

    def _look(self) -> None:
        assert self._gpu is not None
        query = ["nvidia-smi", "-i", self._gpu.index, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self._ended.wait(LOOK_EVERY_S):
            used = subprocess.run(query, capture_output=True, text=True).stdout.strip()
            if used.isdecimal():
                self.most_mib = max(self.most_mib or 0.0, float(used))


def main() -> None:
    """Runs a step, and writes its figures or its error into a file."""
    function, check, file = sys.argv[1:]
    figures, error = {}, None
    try:
        figures = Step("", function, 0.0).load()(Check(**json.loads(check)))
    except Exception as raised:  # of whatever kind it is, the steps after it go on
        traceback.print_exc()
        error = one_line(raised)
    Path(file).write_text(json.dumps({"figures": figures, "error": error}))


def one_line(error: BaseException) -> str:
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:400]


if __name__ == "__main__":
    main()
