"""`reheatd demo` that is stopped at any moment takes its daemon with it."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from reheatd.process.ports import reserve_port

CONFIG = """
data_dir = "{folder}/data"
[policy]
model = "{model}"
max_model_len = 512
[server]
port = {port}
[engine]
kv_cache_bytes = 67108864
"""


def tree_of(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def runs(tree: list[psutil.Process], argument: str) -> bool:
    """Whether one of the processes was started with `argument`."""
    for process in tree:
        try:
            if argument in process.cmdline():
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def wait_for(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "code", "began"),
    [
        (signal.SIGTERM, 143, "serve"),
        (signal.SIGTERM, 143, "reheatd.engine.server"),
        (signal.SIGINT, 130, "reheatd.engine.server"),
        (signal.SIGKILL, -9, "reheatd.engine.server"),
    ],
)
def test_a_signal_ends_the_daemon_with_the_demo(
    number: signal.Signals, code: int, began: str, tiny_policy: Path, tmp_path: Path
) -> None:
    """`began`: which process has just been started when the signal comes, the daemon itself or its engine."""
    config = tmp_path / "reheatd.toml"
    config.write_text(CONFIG.format(folder=tmp_path, model=tiny_policy, port=reserve_port()))
    command = [sys.executable, "-m", "cli.main", "demo", "--config", str(config), "--output", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        wait_for(lambda: runs(tree_of(demo.pid), began))
        tree = tree_of(demo.pid)
        demo.send_signal(number)
        output, _ = demo.communicate()
        assert demo.returncode == code, output
    wait_for(lambda: not any(process.is_running() for process in tree), timeout_s=60.0)
    assert "Traceback" not in output
