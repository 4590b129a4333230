"""The tutorial and the notebooks on the real thing: their own commands and cells, in their own order.

One daemon with the bundled policy, which the tutorial's `reheatd serve` starts, serves the tutorial and then the
notebooks.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
from nbclient import NotebookClient

from reheatd.process.ports import reserve_port
from tests.waiting import HANGS_S, wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
INSTALL, *FOLLOWED = BLOCKS
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
END = "----- end of a block -----"


class Terminal:
    """A shell that stays between two blocks, as a reader's terminal does."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = ["bash", "-e", "-o", "pipefail"]
        self.shell = subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **pipes)

    def run(self, block: str) -> str:
        """What the commands of a block print; fails if one of them does."""
        assert self.shell.stdin is not None and self.shell.stdout is not None
        self.shell.stdin.write(f"{block}\nprintf '\\n%s\\n' '{END}'\n")
        self.shell.stdin.flush()
        lines: list[str] = []
        for line in self.shell.stdout:
            if line.strip() == END:
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"a command failed in\n{block}\n{''.join(lines)}")

    def close(self) -> None:
        """Ends the shell and the daemon that it started, which takes its own processes with it."""
        with suppress(ProcessLookupError):
            os.killpg(self.shell.pid, signal.SIGTERM)
        self.shell.communicate()
        wait_until(lambda: not self._is_alive())

    def _is_alive(self) -> bool:
        """Whether a process of the shell's group is left."""
        try:
            os.killpg(self.shell.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Followed:
    """The tutorial, followed to its last command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tutorial"
        port = reserve_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "200",
            "REHEATD_URL": self.url,
            "REHEATD_SERVER__PORT": str(port),
        }
        self.terminal = Terminal(folder, self.environment)
        self.printed: list[tuple[str, str]] = []

    def follow(self) -> None:
        for block in FOLLOWED:
            if block.strip() == "reheatd serve":
                self.terminal.run("reheatd serve >serve.log 2>&1 &")
                wait_until(self._is_ready)
            else:
                output = self.terminal.run(block.replace("http://127.0.0.1:8000", self.url))
                self.printed.append((block, output))

    def after(self, start: str) -> str:
        """What the first block that begins with `start` printed."""
        return next(output for block, output in self.printed if block.startswith(start))

    def _is_ready(self) -> bool:
        assert self.terminal.shell.poll() is None
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    followed = Followed(tmp_path_factory.mktemp("tutorial"))
    try:
        followed.follow()
        yield followed
    finally:
        followed.terminal.close()


def test_the_way_to_install_exists() -> None:
    make, activate = INSTALL.strip().splitlines()
    assert activate == "source .venv/bin/activate"
    assert subprocess.run([*make.split(), "--dry-run"], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.timeout(1800)  # on a slow machine
def test_every_command_runs_and_shows_what_the_page_says(tutorial: Followed) -> None:
    assert '"model": "base"' in tutorial.after("curl")
    series = [output for block, output in tutorial.printed if block.startswith("reheatd entropy --measure")]
    assert "policy-v0" in series[0]
    assert "policy-v1" in series[1] and "collapsed" in series[1]
    cooled, reheated = (output for block, output in tutorial.printed if block.startswith("reheatd reheat"))
    assert "policy-v0 -> policy-v1" in cooled
    assert "policy-v1 -> policy-v2" in reheated
    assert '"model": "policy-v2-' in tutorial.after("reheatd adapters list")
    assert "policy-v2 is live" in tutorial.after("reheatd journal")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tutorial: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    collapsed = tutorial.folder / "collapsed"
    if not collapsed.exists():
        tutorial.terminal.run(f"reheatd adapters export 1 {collapsed}")
    for name, value in (tutorial.environment | {"ADAPTER": str(collapsed)}).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(file, as_version=4)
    resources = {"metadata": {"path": str(tutorial.folder)}}
    NotebookClient(notebook, timeout=int(HANGS_S), kernel_name="python3", resources=resources).execute()
