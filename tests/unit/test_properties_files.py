"""Whatever files users bring: they are read, or refused by an error of reheatd, and nothing is left behind."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reheatd.adapters.archive import pack, unpack
from reheatd.adapters.importing import find_adapter, normalise_adapter
from reheatd.adapters.tensors import write_tensors
from reheatd.adapters.validate import base_digest, validate_adapter
from reheatd.config_tables import EntropySection
from reheatd.entropy.detector import CollapseDetector
from reheatd.entropy.replay import read_recording, replay
from reheatd.errors import AdapterInvalidError, ArchiveInvalidError, BadInputError, ReheatdError
from reheatd.options import TaskOptions, WindowOptions
from reheatd.runlog.diagnosis import diagnose
from reheatd.runlog.find import read_run
from reheatd.runlog.metric_names import Signal
from reheatd.runlog.signals import pick_signals
from reheatd.runlog.wandb_files import FILE_HEADER, records
from reheatd.task_data import load_task
from reheatd.text import flaw
from tests.unit.properties import ANY_JSON, ANY_TEXT, NUMBERS, as_json, damaged, files_of, in_time, new_folder, tries

PROBLEM = st.fixed_dictionaries(
    {"prompt": st.one_of(ANY_TEXT, ANY_JSON), "answer": st.one_of(ANY_TEXT, NUMBERS, ANY_JSON)},
    optional={"messages": ANY_JSON},
)
LINES = st.lists(st.one_of(PROBLEM, ANY_JSON), max_size=40).map(lambda rows: "\n".join(map(as_json, rows)))
GOOD_LINES = "\n".join(json.dumps({"prompt": f"What is {n}?", "answer": n}) for n in range(40))
WINDOW = st.fixed_dictionaries(
    {"mean": NUMBERS, "low": NUMBERS, "high": NUMBERS},
    optional={"version": NUMBERS, "time": NUMBERS, "baseline": NUMBERS, "estimate": ANY_JSON},
)
METRICS = ("entropy", "reward", "step", "grad_norm", "frac_reward_zero_std", "completion_length", "_step")
STEPS = st.lists(
    st.dictionaries(st.one_of(st.sampled_from(METRICS), ANY_TEXT), st.one_of(NUMBERS, ANY_JSON), max_size=5),
    max_size=40,
)
LOGS = st.one_of(
    STEPS.map(lambda rows: "\n".join(map(as_json, rows))),
    STEPS.map(lambda rows: as_json({"log_history": rows})),
    STEPS.map(lambda rows: "entropy,step\n" + "\n".join(",".join(map(repr, row.values())) for row in rows)),
    st.sampled_from(['{"a":' * 900 + "1" + "}" * 900, "[" * 9000, '{"entropy": ' + "9" * 4000 + "}"]),
    ANY_TEXT,
)
LAYERS = [f"model.layers.{number}.self_attn.{name}" for number in (0, 1) for name in ("q_proj", "v_proj")]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"],
    "alpha_pattern": {},
    "rank_pattern": {},
    "base_model_name_or_path": "tiny",
    "bias": "none",
    "init_lora_weights": True,
}
FILES = {"adapter_config.json": json.dumps(CONFIG).encode(), "folder/weights": bytes(range(256)) * 9}
ARCHIVE = b"".join(pack(dict(FILES)))


@tries(20)
@given(content=files_of(st.one_of(LINES, st.just(GOOD_LINES), ANY_TEXT)))
def test_any_file_of_problems(content: bytes) -> None:
    with new_folder() as folder, in_time():
        file = folder / "problems.jsonl"
        file.write_bytes(content)
        try:
            data = load_task(TaskOptions(path=file), WindowOptions())
        except BadInputError as error:
            assert error.message
        else:
            texts = json.dumps([problem.messages for problem in data.train], ensure_ascii=False)
            assert flaw(texts) is None


@tries(20)
@given(content=files_of(st.one_of(st.lists(WINDOW, max_size=9).map(lambda rows: "\n".join(map(as_json, rows))), LINES)))
def test_any_recording(content: bytes) -> None:
    with new_folder() as folder, in_time():
        file = folder / "windows.jsonl"
        file.write_bytes(content)
        try:
            replay(read_recording(file), CollapseDetector(EntropySection()))
        except BadInputError as error:
            assert error.message


@tries(30)
@given(data=st.data(), packed=st.booleans())
def test_any_archive(data: st.DataObject, packed: bool) -> None:
    content = data.draw(st.one_of(st.just(ARCHIVE), st.binary(max_size=2000)))
    for _ in range(data.draw(st.integers(0, 3))):
        content = damaged(content, data)
    with new_folder() as around, in_time():
        folder = around / "inside" / "folder"
        try:
            unpack(io.BytesIO(gzip.compress(content) if packed else content), folder, max_bytes=1 << 16)
        except ArchiveInvalidError:
            assert not folder.exists()
        assert all(path == folder for path in (around / "inside").iterdir())
        assert [path.name for path in around.iterdir()] == ["inside"]
        assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 1 << 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, as far as an adapter has to fit it."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "config.json").write_text("{}")
    write_tensors(folder / "model.safetensors", {f"{name}.weight": np.ones((8, 8), np.float32) for name in LAYERS})
    return folder


@tries(25)
@given(data=st.data())
def test_any_adapter(base: Path, data: st.DataObject) -> None:
    names = st.one_of(st.sampled_from([*CONFIG, "use_dora", "use_rslora", "lora_bias"]), ANY_TEXT)
    patterns = st.dictionaries(st.one_of(ANY_TEXT, st.sampled_from(["(q|v)_proj", "a{99999999999}", "("])), NUMBERS)
    config = CONFIG | data.draw(st.dictionaries(names, st.one_of(ANY_JSON, patterns), max_size=2))
    text = as_json(config).encode()
    if data.draw(st.booleans()):
        text = damaged(text, data)
    values = data.draw(st.sampled_from([0.1, 0.0, 1e30, float("nan")]))
    tensors = {
        f"base_model.model.{name}.lora_{side}.weight": np.full(shape, values, np.float32)
        for name in LAYERS
        for side, shape in (("A", (2, 8)), ("B", (8, 2)))
    }
    with new_folder() as folder, in_time():
        (folder / "adapter_config.json").write_bytes(text)
        weights = folder / "adapter_model.safetensors"
        write_tensors(weights, tensors)
        if data.draw(st.booleans()):
            weights.write_bytes(damaged(weights.read_bytes(), data))
        target = folder / "normalised"
        try:
            normalise_adapter(
                find_adapter(folder), target, base, base_name="tiny", policy_digest=base_digest(base), max_rank=16
            )
            validate_adapter(target, base, max_rank=16)
        except AdapterInvalidError as error:
            assert error.message


@tries(25)
@given(content=files_of(LOGS), name=st.sampled_from(["log.jsonl", "trainer_state.json", "log.csv", "run.log"]))
def test_any_trainers_log(content: bytes, name: str) -> None:
    chosen: dict[Signal, str] = {}
    with new_folder() as folder, in_time():
        file = folder / name
        file.write_bytes(content)
        for place in (file, folder):
            try:
                diagnose(pick_signals(read_run(place, chosen), chosen), EntropySection(), None)
            except ReheatdError as error:
                assert error.exit_code == 2, error


@tries(20)
@given(content=st.binary(max_size=200))
def test_any_file_of_a_run_of_wandb(content: bytes) -> None:
    with in_time():
        try:
            list(records(Path("run.wandb"), FILE_HEADER + b"\0" + content))
        except BadInputError as error:
            assert error.message
