"""`reheatd diagnose`: what it prints, its exit codes, and the plot."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reheatd.runlog.diagnosis import Diagnosis
from tests.unit import runlog_support as support
from tests.unit.runlog_support import SHAPES
from tests.unit.test_cli_commands import reheatd


def log_of(shape: str, folder: Path) -> Path:
    rows = [support.trl(step, row) for step, row in enumerate(SHAPES[shape]())]
    return support.write_json_lines(folder / f"{shape}.jsonl", rows)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_exit_code_tells_a_healthy_run_from_others(shape: str, tmp_path: Path) -> None:
    done = reheatd("diagnose", str(log_of(shape, tmp_path)), "--json")
    assert (done.returncode, done.stderr) == (0 if shape == "healthy" else 3, "")
    found = Diagnosis.model_validate(json.loads(done.stdout))
    assert found.verdict == shape


def test_people_are_told_the_verdict_first_then_figures_and_notes(tmp_path: Path) -> None:
    done = reheatd("diagnose", str(log_of("collapsed", tmp_path)))
    first, *rest = done.stdout.splitlines()
    assert first.startswith("collapsed since step 4")
    text = " ".join(" ".join(rest).split())
    assert "completions/mean_length" in text
    assert "Reheat the policy" in text
    assert "collapsed below 0.080" in text


@pytest.mark.parametrize("shape", SHAPES)
def test_a_plot_is_written(shape: str, tmp_path: Path) -> None:
    plot = tmp_path / "run.png"
    done = reheatd("diagnose", str(log_of(shape, tmp_path)), "--plot", str(plot))
    assert str(plot) in "".join(done.stdout.split("\n"))
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_text_log_needs_no_optional_package(tmp_path: Path) -> None:
    blocked = "for name in ('torch', 'transformers', 'tensorboard', 'wandb', 'matplotlib'): sys.modules[name] = None"
    command = f"import sys\n{blocked}\nfrom cli.main import main\nmain()"
    run = str(log_of("collapsed", tmp_path))
    done = subprocess.run([sys.executable, "-c", command, "diagnose", run], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")


def test_thresholds_come_from_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "reheatd.toml"
    config.write_text("[entropy]\ncollapse_ratio = 0.3\n")
    run = str(log_of("healthy", tmp_path))
    assert reheatd("diagnose", run, "--config", str(config)).returncode == 3
    assert reheatd("diagnose", run, "--config", str(config), "--baseline-nats", "0.3").returncode == 0


def test_a_metric_of_another_name_can_be_given(tmp_path: Path) -> None:
    rows = [{"step": step, "my_entropy": row["entropy"]} for step, row in enumerate(support.collapsed())]
    run = str(support.write_json_lines(tmp_path / "run.jsonl", rows))
    refused = reheatd("diagnose", run)
    assert refused.returncode == 2
    assert "--metric entropy=NAME. It has my_entropy, step" in refused.stderr
    assert reheatd("diagnose", run, "--metric", "entropy=my_entropy").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--metric", "entropy"], "--metric entropy is not SIGNAL=NAME"),
        (["--metric", "loss=loss"], "SIGNAL is one of entropy, reward"),
        (["--baseline-nats", "-1"], "--baseline-nats -1 is no entropy"),
        (["--baseline-nats", "nan"], "--baseline-nats nan is no entropy"),
        (["--plot", "run.pdf"], "--plot run.pdf is not a PNG file"),
        (["--plot", "/nowhere/run.png"], "--plot /nowhere/run.png cannot be written"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = reheatd("diagnose", str(log_of("healthy", tmp_path)), *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert says in done.stderr


def test_a_missing_run_is_reported_as_json_as_well(tmp_path: Path) -> None:
    done = reheatd("diagnose", str(tmp_path / "nowhere"), "--json")
    assert (done.returncode, done.stderr) == (2, "")
    assert "does not exist" in json.loads(done.stdout)["error"]["message"]
