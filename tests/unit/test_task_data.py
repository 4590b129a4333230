"""The split of a task into problems to train on, held-out ones and probes, and files good and bad."""

import json
from pathlib import Path
from typing import Any

import pytest

from reheatd.config_tables import EntropySection
from reheatd.data.make_arithmetic import problems
from reheatd.entropy.probes import ProbeSet, load_probes
from reheatd.errors import BadInputError
from reheatd.json_lines import Messages
from reheatd.options import ProbeOptions, TaskOptions, WindowOptions
from reheatd.task_data import ARITHMETIC, TaskData, load_task
from tests.probes import task_probes

GOOD = '{"prompt": "Hello?"}'


def write(folder: Path, *lines: str, name: str = "probes.jsonl") -> Path:
    file = folder / name
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def sums(count: int) -> list[str]:
    return [json.dumps({"prompt": f"What is {i} + 1?", "answer": i + 1}) for i in range(count)]


def load(path: Path, eval_count: int = 6, probe_count: int = 8) -> TaskData:
    return load_task(TaskOptions(path=path, eval_count=eval_count), WindowOptions(probe_count=probe_count))


def questions(messages: list[Messages]) -> set[str]:
    return {prompt[-1]["content"] for prompt in messages}


def test_the_split_is_fixed_and_its_parts_are_disjoint(tmp_path: Path) -> None:
    lines = sums(40)
    first = load(write(tmp_path, *lines, name="forward"))
    second = load(write(tmp_path, *lines[::-1], *lines[:9], name="backward, and some lines twice"))
    assert first.held_out == second.held_out and first.probes == second.probes
    parts = [first.held_out, first.train]
    asked = [questions(first.probes), *(questions([problem.messages for problem in part]) for part in parts)]
    assert [len(part) for part in asked] == [8, 6, 26]
    assert len(set.union(*asked)) == 40
    assert len(second.train) == 26


def test_the_daemon_and_a_worker_agree_on_the_probes(tmp_path: Path) -> None:
    task = TaskOptions(path=write(tmp_path, *sums(60)))
    daemon = load_probes(task, EntropySection(probe_count=10))
    assert load_probes(task, ProbeOptions(probe_count=10, max_tokens=7)) == daemon
    assert load_probes(TaskOptions(), EntropySection(probe_count=10)).digest != daemon.digest


def test_held_out_problems_are_the_same_whatever_the_probes_are(tmp_path: Path) -> None:
    task = TaskOptions(path=write(tmp_path, *sums(40), name="task.jsonl"), eval_count=6)
    of_task = load_task(task, WindowOptions(probe_count=8))
    of_file = load_task(task, WindowOptions(probes=write(tmp_path, GOOD, '{"prompt": "Who?"}'), probe_count=2))
    assert of_file.held_out == of_task.held_out
    assert len(of_file.train) == 34 and questions(of_file.probes) == {"Hello?", "Who?"}


def test_a_small_task_brings_fewer_probes_and_too_small_a_one_says_so(tmp_path: Path) -> None:
    small = load(write(tmp_path, *sums(32)), eval_count=100, probe_count=32)
    assert (len(small.held_out), len(small.probes), len(small.train)) == (16, 8, 8)
    with pytest.raises(BadInputError, match=r"has 30 problems: 15 are held out, .* 7 probes") as refused:
        load(write(tmp_path, *sums(30)), eval_count=100, probe_count=32)
    assert "entropy.probe_count" in refused.value.message and refused.value.param == "task.path"
    assert len(load(write(tmp_path, *sums(30)), eval_count=100, probe_count=7).probes) == 7


def test_bundled_data() -> None:
    assert [json.loads(line) for line in ARITHMETIC.read_text().splitlines()] == problems()
    task = load_task(TaskOptions(), EntropySection())
    assert (len(task.held_out), len(task.probes), len(task.train)) == (128, 32, 340)


def test_the_digest_tells_sets_apart() -> None:
    small, same, large = task_probes(8), task_probes(8), task_probes(9)
    assert small.probes == large.probes[:8]
    assert small.digest == same.digest != large.digest


def test_prompt_and_messages_are_two_spellings_of_one_probe(tmp_path: Path) -> None:
    chat = '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\u2028there"}]}'
    probes = probes_of(write(tmp_path, GOOD, "", chat))
    assert probes.probes[0] == ({"role": "user", "content": "Hello?"},)
    assert probes.probes[1][1] == {"role": "user", "content": "Hi\u2028there"}


def probes_of(file: Path, count: int = 2) -> ProbeSet:
    return load_probes(TaskOptions(), WindowOptions(probes=file, probe_count=count))


BAD_PROMPTS = [
    ('{"prompt": "x"', "not valid JSON"),
    ("[]", "needs a JSON object, got list; expected"),
    (
        '{"query": "x", "answer": 1}',
        'has no prompt, which is one of "prompt", "question", "problem", "messages"; it has',
    ),
    ('{"query": "x", "answer": 1}', 'it has "query", "answer": name the field in task.columns; expected'),
    (
        '{"prompt": "x", "messages": [], "answer": 1}',
        'has "prompt" and "messages"; name the one to ask in task.columns',
    ),
    ('{"problem": "x", "question": "y", "answer": 1}', 'e.g. {prompt = "question"}'),
    ('{"messages": [], "answer": 1}', "at least one message"),
    ('{"messages": {"role": "user", "content": "a"}, "answer": 1}', '"messages" must be a list'),
    ('{"messages": [{"content": "x"}], "answer": 1}', 'without text as "role"'),
    ('{"messages": [{"role": "user"}], "answer": 1}', 'without text as "content"'),
    ('{"messages": [{"role": "user", "content": " "}], "answer": 1}', 'without text as "content"'),
    ('{"prompt": "  ", "answer": 1}', '"prompt" must be text'),
    ('{"prompt": 3, "answer": 1}', '"prompt" must be text that is not empty, got 3'),
]
BAD_ANSWERS = [
    ('{"prompt": "a"}', 'has no answer, which is one of "answer", "ground_truth", '),
    ('{"prompt": "a", "answer": null, "gold": 1}', 'it has "prompt", "gold": name the field in task.columns'),
    ('{"prompt": "a", "answer": true}', '"answer" must be text or a number'),
    ('{"prompt": "a", "answer": ["1", "2"]}', '"answer" must be text or a number'),
    (
        '{"prompt": "a", "test": "def check(f): ...", "entry_point": "f()"}',
        '"entry_point" must be the name of a function',
    ),
    (
        '{"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}], "answer": 2}',
        "end with an answer of the assistant",
    ),
]


def check_named(reason: str, param: str, load: Any) -> None:
    with pytest.raises(BadInputError, match=r"jsonl, line 3: ") as caught:
        load()
    assert reason in caught.value.message and "\n" not in caught.value.message
    assert caught.value.param == param


@pytest.mark.parametrize(("line", "reason"), BAD_PROMPTS)
def test_a_bad_line_of_probes_is_named(tmp_path: Path, line: str, reason: str) -> None:
    file = write(tmp_path, GOOD, "", line)
    check_named(reason, "entropy.probes", lambda: probes_of(file))


@pytest.mark.parametrize(("line", "reason"), [*BAD_PROMPTS, *BAD_ANSWERS])
def test_a_bad_line_of_a_task_is_named(tmp_path: Path, line: str, reason: str) -> None:
    file = write(tmp_path, *sums(1), "", line)
    check_named(reason, "task.path", lambda: load(file))


def test_too_few_probes_say_how_many(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"holds 1 probes, fewer than entropy.probe_count = 2"):
        probes_of(write(tmp_path, GOOD))


def test_missing_file_and_wrong_encoding_are_named(tmp_path: Path) -> None:
    for load_missing in (probes_of, load):
        with pytest.raises(BadInputError, match=r"nowhere\.jsonl cannot be read: No such file"):
            load_missing(tmp_path / "nowhere.jsonl")
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"prompt": "café"}'.encode("latin-1"))
    with pytest.raises(BadInputError, match="not UTF-8"):
        probes_of(latin)
