"""Logs as the five trainers write them: found, read with the real libraries, and judged right."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reheatd.config_tables import EntropySection
from reheatd.errors import BadInputError, MissingExtraError, NotFoundError
from reheatd.runlog import wandb_files
from reheatd.runlog.diagnosis import diagnose
from reheatd.runlog.find import read_run
from reheatd.runlog.metric_names import METRIC_NAMES, SIGNALS
from reheatd.runlog.signals import pick_signals
from tests.unit import runlog_support as support
from tests.unit.runlog_support import SHAPES, Recorded, Row

WRITE_WANDB = """
import json, sys
import wandb

settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True)
for name, (rows, steps) in json.load(sys.stdin).items():
    run = wandb.init(project="p", dir=name, mode="offline", settings=settings)
    for step, row in zip(steps, rows):
        run.log(row, step=step)
    run.finish()
"""


def write_wandb(runs: dict[Path, tuple[Sequence[dict[str, Any]], list[int | None]]]) -> None:
    """Logs each run offline into its folder, with W&B itself, at the given steps or one after the other."""
    for folder in runs:
        folder.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    given = json.dumps({str(folder): run for folder, run in runs.items()})
    subprocess.run([sys.executable, "-c", WRITE_WANDB], input=given, text=True, env=env, check=True, timeout=300)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Recorded]]:
    """Every shape as each trainer logs it. W&B takes a second for a run, so one process writes all of them."""
    folder = tmp_path_factory.mktemp("runs")
    wandb: dict[Path, tuple[Sequence[dict[str, Any]], list[int | None]]] = {}
    logs = {shape: write_logs(folder / shape, make(), wandb) for shape, make in SHAPES.items()}
    write_wandb(wandb)
    return logs


def write_logs(folder: Path, rows: list[Row], wandb: dict[Path, Any]) -> dict[str, Recorded]:
    """Writes a run as each trainer logs it, and adds to `wandb` what W&B has to write."""

    def of(log: Any) -> list[dict[str, Any]]:
        return [log(step, row) for step, row in enumerate(rows)]

    output = folder / "trl-output"
    for name, known in (("checkpoint-100", 100), ("checkpoint-200", 200)):
        (output / name).mkdir(parents=True)
        state = {"global_step": known, "log_history": of(support.trl)[:known]}
        (output / name / "trainer_state.json").write_text(json.dumps(state))
    (output / "trainer_state.json").write_text(json.dumps({"log_history": [*of(support.trl), {"train_runtime": 9.0}]}))
    prime_rl = [part for step, row in enumerate(rows) for part in support.prime_rl(step, row)]
    verl = [{"step": step + 1, "data": support.verl(step, row)} for step, row in enumerate(rows)]
    wandb[folder / "trl-wandb"] = (of(support.trl_reported), [None] * len(rows))
    wandb[folder / "prime-rl-wandb"] = (prime_rl, [None] * len(prime_rl))
    in_json_lines, in_csv, in_tensorboard = support.write_json_lines, support.write_csv, support.write_tensorboard
    return {
        "TRL, output folder": Recorded(output, "TRL", True),
        "TRL, JSON lines": Recorded(in_json_lines(folder / "trl.jsonl", of(support.trl)), "TRL", True),
        "TRL, W&B": Recorded(folder / "trl-wandb", "TRL", True),
        "verl, file logger": Recorded(in_json_lines(folder / "verl.jsonl", verl), "verl", False),
        "verl, TensorBoard": Recorded(in_tensorboard(folder / "tensorboard_log", of(support.verl)), "verl", False),
        "prime-rl, metrics.jsonl": Recorded(in_json_lines(folder / "metrics.jsonl", prime_rl), "prime-rl", True),
        "prime-rl, W&B": Recorded(folder / "prime-rl-wandb", "prime-rl", True),
        "SkyRL, CSV": Recorded(in_csv(folder / "skyrl.csv", of(support.sky_rl)), "SkyRL", True),
        "SkyRL, TensorBoard": Recorded(in_tensorboard(folder / "skyrl", of(support.sky_rl)), "SkyRL", True),
        "OpenRLHF, TensorBoard": Recorded(
            in_tensorboard(folder / "openrlhf", of(support.open_rlhf)), "OpenRLHF", False
        ),
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_the_verdict_is_right_in_every_trainers_format(shape: str, recorded: dict[str, dict[str, Recorded]]) -> None:
    since = {}
    for name, log in recorded[shape].items():
        signals = pick_signals(read_run(log.path))
        found = diagnose(signals, EntropySection())
        assert (found.verdict, found.trainer) == (shape, log.trainer), name
        assert found.last_step - found.first_step == len(SHAPES[shape]()) - 1, name
        assert {"entropy", "reward", "grad_norm", "completion_length"} <= set(found.signals), name
        if shape != "stalled" or log.group_shares:
            since[name] = found.since_step
    # Some trainers count from 0 and others from 1, and all-fail groups are told from all-pass ones in some only.
    assert shape == "healthy" or max(since.values()) - min(since.values()) <= 2


def test_the_table_names_every_signal_and_each_trainers_entropy() -> None:
    assert {entry.signal for entry in METRIC_NAMES} == set(SIGNALS)
    trainers = {entry.trainer for entry in METRIC_NAMES}
    assert trainers == {entry.trainer for entry in METRIC_NAMES if entry.signal == "entropy"}
    assert trainers == {"TRL", "verl", "prime-rl", "SkyRL", "OpenRLHF"}


def test_a_large_wandb_file_is_read_across_its_blocks(tmp_path: Path) -> None:
    rows = [{"actor/entropy": 0.1, "filler": "x" * 50_000, "nested": {"reward": step}} for step in range(30)]
    write_wandb({tmp_path / "run": (rows, [3 * step for step in range(30)])})
    log = read_run(tmp_path / "run")
    assert list(log.metrics["actor/entropy"]) == [3 * step for step in range(30)]
    assert log.metrics["nested/reward"][87] == 29
    (file,) = (tmp_path / "run").rglob("*.wandb")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert 10 < len(read_run(file).metrics["actor/entropy"]) < 20
    file.write_bytes(content[:100_000] + b"!" + content[100_001:])
    with pytest.raises(BadInputError, match="is damaged at byte"):
        read_run(file)


def test_the_newest_row_counts_where_a_restart_logs_a_step_again(tmp_path: Path) -> None:
    rows = [
        {"step": step, "entropy": value} for value, steps in ((0.9, range(8)), (0.5, range(4, 9))) for step in steps
    ]
    file = support.write_json_lines(tmp_path / "run.jsonl", rows)
    assert read_run(file).metrics["entropy"] == {0: 0.9, 1: 0.9, 2: 0.9, 3: 0.9, 4: 0.5, 5: 0.5, 6: 0.5, 7: 0.5, 8: 0.5}


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text('{"step": 1, "entropy": NaN}\n{"step": 2, "entropy": 0.7, "grad_norm": Infinity}\n')
    signals = pick_signals(read_run(file))
    assert signals.series == {"entropy": {2: 0.7}}
    assert signals.notes == [
        "1 of 2 values of entropy are not finite and were left out",
        "1 of 1 values of grad_norm are not finite and were left out",
    ]


def test_numbers_and_nesting_that_json_allows_do_no_harm(tmp_path: Path) -> None:
    deep = '{"a": ' * 900 + "1" + "}" * 900
    rows = [f'{{"step": {step}, "entropy": 0.5, "big": {10**400}, "deep": {deep}}}' for step in range(3)]
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(rows) + "\n")
    log = read_run(file)
    assert log.metrics["entropy"] == {0: 0.5, 1: 0.5, 2: 0.5}
    assert log.metrics["big"][0] == float("inf")


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text('{"step": 1, "entropy": 0.8}\n{"step": 2, "entr')
    assert read_run(file).metrics["entropy"] == {1: 0.8}
    file.write_text('{"step": 1, "entr\n{"step": 2, "entropy": 0.8}\n')
    with pytest.raises(BadInputError, match="line 1: not valid JSON"):
        read_run(file)


def test_a_csv_that_wandb_exports_is_read_without_the_name_of_its_run(tmp_path: Path) -> None:
    file = tmp_path / "wandb_export.csv"
    file.write_text(
        '"Step","brave - 7 - actor/entropy","brave - 7 - actor/entropy__MIN","brave - 7 - actor/entropy__MAX"\n'
        '"10","0.8","0.7","0.9"\n"20","","",""\n"30","0.6","0.5","0.7"\n'
    )
    assert pick_signals(read_run(file)).series == {"entropy": {10: 0.8, 30: 0.6}}


def test_several_columns_with_entropy_are_named(tmp_path: Path) -> None:
    file = support.write_csv(tmp_path / "export.csv", [{"Step": 1, "a - entropy": 0.8, "b - entropy": 0.7}])
    with pytest.raises(BadInputError, match="any of a - entropy, b - entropy; name one with --metric entropy=NAME"):
        pick_signals(read_run(file))
    assert pick_signals(read_run(file), {"entropy": "b - entropy"}).series["entropy"] == {1: 0.7}


def test_a_given_name_takes_the_place_of_a_known_one(tmp_path: Path) -> None:
    rows = [{"step": step, "entropy": 0.8, "h/mine": 0.7, "score": 0.1} for step in range(9)]
    log = read_run(support.write_json_lines(tmp_path / "run.jsonl", rows))
    signals = pick_signals(log, {"entropy": "h/mine", "reward": "score"})
    assert (signals.trainer, signals.names) == (None, {"entropy": "h/mine", "reward": "score"})
    with pytest.raises(BadInputError, match="no metric 'h/yours' for entropy; it has entropy, h/mine, score, step"):
        pick_signals(log, {"entropy": "h/yours"})


def test_a_log_without_entropy_lists_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "trainer_state.json").write_text('{"log_history": [{"step": 1, "loss": 2.0, "mean_token": 1}]}')
    for path in (tmp_path / "run", tmp_path / "run" / "trainer_state.json"):
        with pytest.raises(BadInputError, match=r"--metric entropy=NAME\. It has loss, mean_token, step"):
            pick_signals(read_run(path))


def test_several_runs_in_a_folder_are_listed(tmp_path: Path) -> None:
    rows = [{"step": step, "actor/entropy": 0.8} for step in range(9)]
    for name in ("first", "second"):
        support.write_tensorboard(tmp_path / "logs" / name, rows)
    with pytest.raises(BadInputError, match=r"holds 2 runs \(TensorBoard\)") as raised:
        read_run(tmp_path / "logs")
    for name in ("first", "second"):
        assert str(tmp_path / "logs" / name) in raised.value.message
        assert len(read_run(tmp_path / "logs" / name).metrics["actor/entropy"]) == 9


def test_other_files_in_a_runs_folder_are_no_runs(tmp_path: Path) -> None:
    support.write_json_lines(tmp_path / "metrics.jsonl", [{"step": 1, "actor/entropy": 0.8}])
    (tmp_path / "rollouts").mkdir()
    support.write_json_lines(tmp_path / "rollouts" / "traces.jsonl", [{"reward": 1, "completion": "..."}])
    (tmp_path / "rollouts" / "broken.jsonl").write_text("no JSON at all\n")
    assert read_run(tmp_path).source == tmp_path / "metrics.jsonl"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("run.jsonl", "", "holds no metric"),
        ("run.jsonl", "[1]\n", "line 1: needs a JSON object, got list"),
        ("run.jsonl", "\xff\xfe", "is not UTF-8 but UTF-16 or UTF-32"),
        ("run.csv", "step,entropy\n", "holds no metric"),
        ("run.csv", "step,entropy\n1,0.8\n2,0.7,9\n", "line 3: more values than the 2 names of line 1"),
        ("trainer_state.json", '{"log_history": 3}', "expected a trainer_state.json"),
        ("trainer_state.json", "", "holds no metric"),
        ("run.wandb", "something else", "is not a W&B run file"),
        ("events.out.tfevents.1.host", "something else, of some length", "holds no metric"),
        ("run.parquet", "PAR1", "is of no known format; expected TensorBoard"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(name: str, content: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInputError, match=says) as raised:
        read_run(file)
    assert str(file) in raised.value.message
    assert "\n" not in raised.value.message


def test_a_folder_without_a_log_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="holds no log with an entropy; expected TensorBoard"):
        read_run(tmp_path)
    with pytest.raises(NotFoundError, match="does not exist"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "library"), [("run.wandb", "wandb"), ("events.out.tfevents.1.host", "tensorboard")])
def test_a_missing_library_is_named_with_its_extra(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (tmp_path / name).write_bytes(wandb_files.FILE_HEADER)
    with pytest.raises(MissingExtraError, match=rf"needs {library}: pip install 'reheatd\[diagnose\]'"):
        read_run(tmp_path / name)


def test_entropies_of_which_none_is_finite_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text('{"step": 1, "entropy": NaN}\n{"step": 2, "entropy": NaN}\n')
    with pytest.raises(BadInputError, match="none of the 2 values of entropy is finite"):
        pick_signals(read_run(tmp_path / "run.jsonl"))


@pytest.mark.parametrize(
    ("names", "largest"),
    [
        (["val-core/math/acc/mean@16", "val-core/math/acc/best@16/mean"], "val-core/math/acc/best@16/mean"),
        (["eval/aime2025/pass@1", "eval/aime2025/pass@16", "eval/aime2025/pass@8"], "eval/aime2025/pass@16"),
        (["eval/all/pass_at_8"], "eval/all/pass_at_8"),
    ],
)
def test_of_several_pass_at_k_the_one_of_the_largest_k_counts(names: list[str], largest: str, tmp_path: Path) -> None:
    rows = [{"step": step, "entropy": 0.5} | dict.fromkeys(names, 0.25) for step in range(3)]
    signals = pick_signals(read_run(support.write_json_lines(tmp_path / "run.jsonl", rows)))
    assert signals.names["pass_at_k"] == largest
    assert signals.notes == []


def test_pass_at_k_of_several_data_sources_has_to_be_named(tmp_path: Path) -> None:
    sources = ["eval/aime2025/pass@16", "eval/math500/pass@16"]
    rows = [{"step": step, "entropy": 0.5} | dict.fromkeys(sources, 0.25) for step in range(3)]
    log = read_run(support.write_json_lines(tmp_path / "run.jsonl", rows))
    (note,) = pick_signals(log).notes
    assert note == f"pass_at_k may be any of {', '.join(sources)}; name one with --metric pass_at_k=NAME"
    assert pick_signals(log, {"pass_at_k": sources[1]}).names["pass_at_k"] == sources[1]
