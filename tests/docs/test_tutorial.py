"""The tutorial and the notebooks on the real thing: their own commands and cells, in their own order.

One daemon with the bundled policy, which the tutorial's `reheatd serve` starts, serves the tutorial and then the
notebooks.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from docsite.tutorial import ROOT, Tutorial, blocks
from tests.waiting import HANGS_S

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tutorial]:
    followed = Tutorial(tmp_path_factory.mktemp("tutorial"), columns=200)
    try:
        followed.follow()
        yield followed
    finally:
        followed.terminal.close()


def printed(tutorial: Tutorial, start: str) -> list[str]:
    """What the blocks that begin with `start` printed."""
    return [output for commands, output in tutorial.printed if commands.startswith(start)]


def test_the_way_to_install_exists() -> None:
    make, activate = blocks()[0].strip().splitlines()
    assert activate == "source .venv/bin/activate"
    assert subprocess.run([*make.split(), "--dry-run"], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.timeout(1800)  # on a slow machine
def test_every_command_runs_and_shows_what_the_page_says(tutorial: Tutorial) -> None:
    assert '"model": "base"' in printed(tutorial, "curl")[0]
    before, after = printed(tutorial, "reheatd entropy --measure")
    assert "policy-v0" in before
    assert "policy-v1" in after and "collapsed" in after
    cooled, reheated = printed(tutorial, "reheatd reheat")
    assert "policy-v0 -> policy-v1" in cooled
    assert "policy-v1 -> policy-v2" in reheated
    assert '"model": "policy-v2-' in printed(tutorial, "reheatd adapters list")[0]
    assert "policy-v2 is live" in printed(tutorial, "reheatd journal")[0]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tutorial: Tutorial, monkeypatch: pytest.MonkeyPatch) -> None:
    collapsed = tutorial.folder / "collapsed"
    if not collapsed.exists():
        tutorial.terminal.run(f"reheatd adapters export 1 {collapsed}")
    for name, value in (tutorial.environment | {"ADAPTER": str(collapsed)}).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(file, as_version=4)
    resources = {"metadata": {"path": str(tutorial.folder)}}
    NotebookClient(notebook, timeout=int(HANGS_S), kernel_name="python3", resources=resources).execute()
