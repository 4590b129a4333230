"""Tasks as data sets have them: their fields, files, folders, the Hugging Face hub and installed sources."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reheatd.errors import BadInputError
from reheatd.json_lines import Place
from reheatd.options import TaskOptions, WindowOptions
from reheatd.task_data import TaskData, load_task
from reheatd.tasks.fields import problem_of
from reheatd.tasks.sources import from_anywhere

HERE = Place("file.jsonl, line 7", "something else", "task.path")
TESTS = "def check(candidate):\n    assert candidate(2) == 4\n"
SUMS = [
    {"question": f"What is {i} + 1?", "answer": f"{i} + 1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"} for i in range(40)
]


def read(record: dict[str, Any], **columns: Any) -> tuple[str, str]:
    problem = problem_of(HERE, record, cast(Any, columns))
    assert problem.record == record and problem.place == HERE.where
    return problem.messages[-1]["content"], problem.answer


def load(path: Path | str, **options: Any) -> TaskData:
    return load_task(TaskOptions(path=Path(path), eval_count=6, **options), WindowOptions(probe_count=8))


def size(task: TaskData) -> int:
    return len(task.train) + len(task.held_out) + len(task.probes)


def refused(path: Path | str, **options: Any) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        load(path, **options)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        ({"prompt": "Q", "answer": 7}, "7"),
        ({"question": "Q", "answer": "so it is\n#### 7"}, "so it is\n#### 7"),
        ({"problem": "Q", "solution": "Thus \\boxed{7}.", "level": "Level 5", "type": "Algebra"}, "Thus \\boxed{7}."),
        ({"problem": "Q", "solution": "Thus \\boxed{7}.", "answer": "7", "unique_id": "a/1"}, "7"),
        (
            {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}], "ground_truth": 7.5},
            "7.5",
        ),
        (
            {
                "data_source": "math_dapo",
                "prompt": [{"role": "user", "content": "Q", "name": None}],
                "reward_model": {"style": "rule", "ground_truth": "7"},
                "extra_info": {"index": 3},
            },
            "7",
        ),
        ({"prompt": "Q", "answer": None, "ground_truth": ["7"]}, "7"),
        (
            {"task_id": "a/0", "prompt": "Q", "canonical_solution": "...", "test": TESTS, "entry_point": "square"},
            TESTS + "\n\ncheck(square)\n",
        ),
        (
            {
                "prompt": "Q",
                "code": "...",
                "test_list": ["assert f(1)", "assert f(2)"],
                "test_imports": ["import math"],
            },
            "import math\nassert f(1)\nassert f(2)",
        ),
    ],
    ids=["own", "gsm8k", "math", "math-500", "chat", "dapo", "list of one", "humaneval", "mbpp"],
)
def test_records_of_data_sets_in_use_are_read_as_they_come(record: dict[str, Any], answer: str) -> None:
    assert read(record) == ("Q", answer)


def test_columns_name_other_fields_also_inside_objects() -> None:
    record = {"prompt": "not this", "text": "Q", "meta": {"gold": {"value": 7}}, "answer": 8}
    assert read(record, prompt="text", answer="meta.gold.value") == ("Q", "7")
    assert read({"a.b": "Q", "answer": 7}, prompt="a.b") == ("Q", "7")
    with pytest.raises(
        BadInputError, match=r'line 7: has no "gold", which task.columns names for the answer; it has "pro'
    ):
        read(record, prompt="text", answer="gold")


def test_a_prompt_that_comes_twice_stays_on_one_side(tmp_path: Path) -> None:
    def part_of(data: TaskData) -> dict[str, set[str]]:
        parts: dict[str, set[str]] = {}
        for name, prompts in (
            ("train", [problem.messages for problem in data.train]),
            ("held out", [problem.messages for problem in data.held_out]),
            ("probes", data.probes),
        ):
            for messages in prompts:
                parts.setdefault(messages[-1]["content"].split("?")[0], set()).add(name)
        return parts

    lines = [{"prompt": f"What is {i} + 1?", "answer": i + 1} for i in range(40)]
    again = [{"prompt": f"What is {i} + 1?\n ", "answer": answer} for i in range(40) for answer in (i + 1, i)]
    file = tmp_path / "task.jsonl"
    for order in (lines + again, again + lines):
        file.write_text("\n".join(map(json.dumps, order)))
        task = load(file)
        assert all(len(parts) == 1 for parts in part_of(task).values()) and len(part_of(task)) == 40
        assert (len(task.held_out), len(task.probes), len(task.train)) == (6, 8, 26 * 3)


def test_a_parquet_file_is_read_with_its_rows_named(tmp_path: Path) -> None:
    rows = [{**row, "image": b"\x89PNG"} for row in SUMS]
    file = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=7)
    task = load(file)
    assert size(task) == 40
    problem = task.train[0]
    assert problem.record in SUMS and problem.place.startswith(f"{file}, row ")
    pq.write_table(pa.Table.from_pylist([*SUMS, {"question": None, "answer": "1"}]), file)
    assert f"{file}, row 41: has no prompt" in refused(file).message
    no_text = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    pq.write_table(pa.table({"question": no_text, "answer": ["1"]}), file)
    assert f"{file} cannot be read as parquet: 'utf-8' codec" in refused(file).message
    file.write_bytes(b"PAR1 and no more")
    assert f"{file} cannot be read as parquet" in refused(file).message
    assert "none.parquet cannot be read: No such file" in refused(tmp_path / "none.parquet").message


def test_a_json_array_is_read_with_its_items_named(tmp_path: Path) -> None:
    file = tmp_path / "task.json"
    file.write_text(json.dumps(SUMS, indent=1))
    assert size(load(file)) == 40
    file.write_text(json.dumps([*SUMS, 3]))
    assert "task.json, item 41: needs a JSON object, got int" in refused(file).message
    file.write_text(json.dumps(SUMS)[:-1])
    assert "task.json: not valid JSON" in refused(file).message


def gsm8k_like(folder: Path) -> Path:
    for subset, shift in (("main", 0), ("socratic", 1)):
        for split, rows in (("train", SUMS[: 32 + shift]), ("test", SUMS[: 24 + shift])):
            file = folder / subset / f"{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), file)
    return folder


CARD = """---
license: mit
configs:
- config_name: hard
  data_files:
  - split: train
    path: main/train-*
  - split: exam
    path: ["main/test-*", "socratic/test-*"]
---
# A data set
"""


def test_a_folder_has_subsets_and_splits_by_the_names_of_its_files(tmp_path: Path) -> None:
    folder = gsm8k_like(tmp_path / "data")
    assert size(load(folder)) == 32
    assert size(load(folder, split="test")) == 24
    assert size(load(folder, subset="socratic", split="test")) == 25
    error = refused(folder, split="validation")
    assert error.message.endswith("has no split 'validation'; it has test, train") and error.param == "task.split"
    error = refused(folder, subset="hard")
    assert error.message.endswith("has no subset 'hard'; it has main, socratic") and error.param == "task.subset"


def test_a_folder_has_the_subsets_and_splits_that_its_card_declares(tmp_path: Path) -> None:
    folder = gsm8k_like(tmp_path / "data")
    (folder / "README.md").write_text(CARD)
    assert size(load(folder)) == 32
    assert size(load(folder, split="exam")) == 25
    assert "has no split 'test'; it has train, exam" in refused(folder, split="test").message
    for fault in ("- split: train", "license: mit", "- config_name: hard"):
        (folder / "README.md").write_text(CARD.replace(fault, "- : ["))
        assert "README.md: what it declares between its --- lines cannot be read" in refused(folder).message


def test_a_folder_of_one_file_needs_no_split_and_of_several_subsets_needs_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dapo-math-17k.jsonl").write_text("\n".join(map(json.dumps, SUMS)))
    assert size(load(tmp_path)) == 40
    for name in ("algebra", "geometry"):
        (tmp_path / "two" / name).mkdir(parents=True)
        (tmp_path / "two" / name / "test.jsonl").write_text("\n".join(map(json.dumps, SUMS)))
    assert "has the subsets algebra, geometry; name one in task.subset" in refused(tmp_path / "two").message
    assert size(load(tmp_path / "two", subset="algebra")) == 40
    (tmp_path / "empty").mkdir()
    assert "holds no .parquet, .jsonl or .json file" in refused(tmp_path / "empty").message


def test_options_without_a_meaning_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "task.jsonl"
    file.write_text("\n".join(map(json.dumps, SUMS)))
    assert refused(file, split="train").param == "task.split"
    assert refused(file, arguments={"size": 3}).param == "task.arguments"
    assert refused("reasoning_gym:any", split="train").param == "task.split"
    with pytest.raises(ValueError, match=r"columns\.gold"):
        TaskOptions.model_validate({"columns": {"gold": "answer"}})


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, for one data set."""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        self._folder = folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, body: bool) -> None:
        commit, of_file = "c" * 40, "/datasets/someone/sums/resolve/"
        file = self._folder / self.path.removeprefix(of_file).partition("/")[2]
        if self.path.startswith("/api/datasets/someone/sums"):
            files = [path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if path.is_file()]
            siblings = [{"rfilename": name} for name in files]
            content = json.dumps({"id": "someone/sums", "sha": commit, "siblings": siblings}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
        elif self.path.startswith(of_file) and file.is_file():
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("x-repo-commit", commit)
            self.send_header("etag", f'"{len(content)}"')
        else:
            content = b"{}"
            self.send_response(404)
            self.send_header("x-error-code", "RepoNotFound")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of `someone/sums` on a hub of this test."""
    from huggingface_hub import constants

    folder = tmp_path / "on-hub"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield folder
        server.shutdown()


def test_a_data_set_of_the_hub_is_read_and_later_from_the_cache(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gsm8k_like(hub)
    assert size(load("someone/sums")) == 32
    assert size(load("someone/sums", subset="socratic", split="test")) == 25
    assert "someone/sums has no split 'exam'; it has test, train" in refused("someone/sums", split="exam").message
    error = refused("someone/nothing")
    assert "someone/nothing is no file or folder here, and the Hugging Face hub does not" in error.message
    assert from_anywhere(Path("someone/sums")) == Path("someone/sums")
    for away in ({"ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": True}):
        for name, value in away.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        assert size(load("someone/sums")) == 32
        assert size(load("someone/sums@main", subset="socratic", split="test")) == 25
        error = refused("someone/nothing")
        assert "someone/nothing is no file or folder here, and the Hugging Face hub cannot be asked (" in error.message
