"""Follows the tutorial as a reader does: its own commands, in a shell, on the real thing.

`python -m docsite.tutorial` also writes what they print into the page, as a `text` block after each `bash` block. The
test of the tutorial follows it in the same way.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from reheatd.process.ports import reserve_port

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
URL = "http://127.0.0.1:8000"
END = "----- end of a block -----"
BLOCK = re.compile(r"^```bash\n(?P<commands>.*?)^```\n(?P<printed>\n```text\n.*?^```\n)?", re.M | re.S)
SERVE = "reheatd serve\n"
NOT_SHOWN = ("make ", "mkdir ", "reheatd serve")
"""Beginnings of blocks whose output the page does not show."""
POLL_S = 0.2
PAGE_COLUMNS = 110


class Terminal:
    """A shell that stays between two blocks, as a reader's terminal does."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = ["bash", "-e", "-o", "pipefail"]
        self.shell = subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **pipes)

    def run(self, block: str) -> str:
        """What the commands of a block print.

        Raises:
            RuntimeError: One of them failed.
        """
        assert self.shell.stdin is not None and self.shell.stdout is not None
        self.shell.stdin.write(f"{block}\nprintf '\\n%s\\n' '{END}'\n")
        self.shell.stdin.flush()
        lines: list[str] = []
        for line in self.shell.stdout:
            if line.strip() == END:
                return "".join(lines)
            lines.append(line)
        raise RuntimeError(f"a command failed in\n{block}\n{''.join(lines)}")

    def close(self) -> None:
        """Ends the shell and the daemon that it started, which takes its own processes with it."""
        with suppress(ProcessLookupError):
            os.killpg(self.shell.pid, signal.SIGTERM)
        self.shell.communicate()
        while self._is_alive():
            time.sleep(POLL_S)

    def _is_alive(self) -> bool:
        """Whether a process of the shell's group is left."""
        try:
            os.killpg(self.shell.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Tutorial:
    """The tutorial in a folder and on a port of its own. The first block, which installs, is left out."""

    def __init__(self, folder: Path, columns: int) -> None:
        port = reserve_port()
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder / "tutorial"
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": str(columns),
            "REHEATD_URL": self.url,
            "REHEATD_SERVER__PORT": str(port),
        }
        self.terminal = Terminal(folder, self.environment)
        self.printed: list[tuple[str, str]] = []
        """Commands of each block that was followed, with what they printed."""

    def follow(self) -> None:
        """Runs all blocks.

        Raises:
            RuntimeError: A command failed.
        """
        for commands in blocks()[1:]:
            if commands == SERVE:
                self.terminal.run("reheatd serve >serve.log 2>&1 &")
                while not self._is_ready():
                    time.sleep(POLL_S)
                self.printed.append((commands, ""))
            else:
                self.printed.append((commands, self.terminal.run(commands.replace(URL, self.url))))

    def _is_ready(self) -> bool:
        if self.terminal.run("kill -0 $! || echo ended").strip():
            raise RuntimeError(f"`reheatd serve` ended: {(self.folder / 'serve.log').read_text()[-2000:]}")
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False


def blocks() -> list[str]:
    """The commands of each block of the page."""
    return [found["commands"] for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


def with_output(page: str, tutorial: Tutorial) -> str:
    """The page with what was printed this time, in the blocks that show it."""
    printed = dict(tutorial.printed)

    def replaced(found: re.Match[str]) -> str:
        if found["commands"].startswith(NOT_SHOWN):
            return found[0]
        text = printed[found["commands"]].replace(tutorial.url, URL).replace(f"{tutorial.folder}/", "")
        lines = "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
        return f"```bash\n{found['commands']}```\n\n```text\n{lines}\n```\n"

    return BLOCK.sub(replaced, page)


def main() -> None:
    """Follows the tutorial and writes what it prints into the page."""
    with tempfile.TemporaryDirectory() as folder:
        tutorial = Tutorial(Path(folder), PAGE_COLUMNS)
        try:
            tutorial.follow()
        finally:
            tutorial.terminal.close()
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_output(page, tutorial), encoding="utf-8")


if __name__ == "__main__":
    main()
