"""The Countdown experiment, whole, at its smallest size."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from examples.countdown.arms import CONTINUED
from examples.countdown.experiment import FIGURES, PLOTS
from examples.countdown.plan import QUICK, SIGNAL, STALL

ROOT = Path(__file__).parents[2]
ENDS = ("", "_low", "_high")


def test_the_experiment_prints_every_figure_and_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "examples.countdown.experiment", "--quick", *arguments]
        environment = {**os.environ, "REHEATD_BENCH_RESULTS": str(tmp_path)}
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout

    first = run("--fresh")
    figures = dict(re.findall(r"^RESULT (\S+)=(\S+)$", first, re.MULTILINE))
    arms = QUICK.scenarios[STALL].arms
    wanted = {
        f"{metric}_{arm}{end}"
        for metric in ("takeoff", "noop", "pass1", "pass16", "kept")
        for arm in arms
        for end in ENDS
    }
    wanted |= {f"{name}{end}" for name in ("takeoff_live_vs_continued", "rule_auc", "entropy_auc") for end in ENDS}
    for arm in QUICK.scenarios[SIGNAL].arms[1:]:
        wanted |= {f"{SIGNAL}_pass1_{arm}_minus_{CONTINUED}{end}" for end in ENDS}
    assert wanted | {"seeds"} <= figures.keys()
    # Nothing is ever solved at this size, so the daemon's rule acts in every shift of the cascade.
    assert all(float(figures[f"cascade_actions_{shift}_rule"]) >= 1 for shift in (1, 2))
    assert float(figures["cascade_actions_1_continued"]) == 0
    assert float(figures["signal_entropy_fold_1.25"]) > float(figures["signal_entropy_continued"])
    assert float(figures["entropy_entropy_bonus"]) > float(figures["entropy_continued"])
    assert float(figures["noop_continued"]) == 1
    folder = tmp_path / QUICK.name
    assert {file.stem for file in folder.glob("*.png")} == PLOTS.keys()
    assert all(f"| {arm} | " in (folder / "stall.md").read_text() for arm in arms)
    kept = json.loads((folder / FIGURES).read_text())["results"]

    (lost,) = folder.glob("arm-stall-auto-seed2.json")
    lost.unlink()
    again = run()
    assert re.findall(r"^\d+/\d+ (\S+):", again, re.MULTILINE) == [lost.stem]
    results = json.loads((tmp_path / f"{QUICK.name}.json").read_text())["results"]
    seconds = {"seconds", "cpu_seconds"}
    assert {name: str(value) for name, value in results.items() if name not in seconds} == {
        name: str(value) for name, value in kept.items() if name not in seconds
    }
