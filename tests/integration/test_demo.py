"""`reheatd demo` that is stopped at any moment takes its daemon with it."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from reheatd.process.ports import reserve_port
from tests.waiting import wait_until

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
        wait_until(lambda: runs(tree_of(demo.pid), began))
        tree = tree_of(demo.pid)
        demo.send_signal(number)
        output, _ = demo.communicate()
        assert demo.returncode == code, output
    wait_until(lambda: not any(process.is_running() for process in tree))
    assert "Traceback" not in output
