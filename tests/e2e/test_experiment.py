"""The Countdown experiment, whole, at its smallest size."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from examples.countdown.arms import ARMS

ROOT = Path(__file__).parents[2]


def test_the_experiment_prints_every_figure_and_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "examples.countdown.experiment", "--quick", *arguments]
        environment = {**os.environ, "REHEATD_BENCH_RESULTS": str(tmp_path)}
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout

    first = run("--fresh")
    figures = dict(re.findall(r"^RESULT (\w+)=(\S+)$", first, re.MULTILINE))
    wanted = {f"{metric}_{arm}" for metric in ("pass1", "pass16", "entropy") for arm in ARMS}
    wanted |= {f"pass1_{arm}_minus_continued{end}" for arm in ARMS[1:] for end in ("", "_low", "_high")}
    assert wanted | {"seeds"} <= figures.keys()
    assert float(figures["entropy_fold"]) > float(figures["entropy_continued"])
    folder = tmp_path / "experiment-quick"
    assert {file.name for file in folder.glob("*.png")} == {"curves.png", "differences.png", "frontier.png"}
    assert all(f"| {arm} | " in (folder / "table.md").read_text() for arm in ARMS)
    kept = json.loads((tmp_path / "experiment-quick.json").read_text())["results"]

    (lost,) = folder.glob("reheat-held_out-seed2-*.json")
    lost.unlink()
    again = run()
    assert re.findall(r"^\d+/\d+ (\S+):", again, re.MULTILINE) == [lost.stem]
    results = json.loads((tmp_path / "experiment-quick.json").read_text())["results"]
    assert {name: value for name, value in results.items() if name != "seconds"} == {
        name: value for name, value in kept.items() if name != "seconds"
    }
