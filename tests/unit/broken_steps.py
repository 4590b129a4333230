"""Steps of `bench.gpu_check` that go wrong, and one that does not."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from bench.gpu_steps import Check, Figures


def fine(check: Check) -> Figures:
    return {"sees_no_gpu": float(os.environ["CUDA_VISIBLE_DEVICES"] == ""), "loss": 0.5}


def raises(check: Check) -> Figures:
    (check.scratch / "engine.log").write_text("the engine's last words\n")
    raise ValueError("the first line\nand the second")


def is_killed(check: Check) -> Figures:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def hangs(check: Check) -> Figures:
    """With a child in a session of its own, as a daemon's are."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(check.folder, "child").write_text(str(child.pid))
    threading.Event().wait()
    return {}
