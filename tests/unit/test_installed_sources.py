"""Tasks of installed packages: reasoning-gym, verifiers, and what another distribution brings."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reheatd.errors import BadInputError
from reheatd.options import TaskOptions, WindowOptions
from reheatd.task_data import Problem, TaskData, load_task
from reheatd.tasks.sources import from_anywhere
from workers.rewards.weighted import WeightedRewards

THEIRS = """
import sys

def cubes(argument, *, count=30):
    print("noise on stdout")
    for number in range(count):
        yield {"question": f"What is {number} cubed, {argument}?", "solution": number ** 3, "kind": "cube"}

def broken(argument):
    yield {"question": "One?", "answer": 1}
    raise RuntimeError("no more\\nproblems")

def unordered(argument):
    for word in {f"word{number}" for number in range(30)}:
        yield {"question": f"{word}?", "answer": word}

def endless(argument):
    while True:
        yield {"question": "Again?", "answer": 1}

def dying(argument):
    import os
    for number in range(9):
        yield {"question": str(number) * 3000, "answer": number}
    os._exit(3)

def cube_scorer(completion, answer, record):
    return (completion == answer) * (1.0 if record["kind"] == "cube" else 0.5)
"""
ENTRY_POINTS = """[reheatd.tasks]
cubes = their_tasks:cubes
broken = their_tasks:broken
unordered = their_tasks:unordered
dying = their_tasks:dying
endless = their_tasks:endless
missing = their_tasks:nothing
[reheatd.rewards]
cubes = their_tasks:cube_scorer
"""
TASKSETS = Path(__file__).parents[1] / "tasksets"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another distribution with sources of tasks, on the path of this process and of those that it starts."""
    (tmp_path / "their_tasks.py").write_text(THEIRS)
    metadata = tmp_path / "their_tasks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-tasks\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    path = [str(tmp_path), str(TASKSETS), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


def load(path: str, **options: Any) -> TaskData:
    return load_task(TaskOptions(path=Path(path), eval_count=6, **options), WindowOptions(probe_count=8))


def refused(path: str, **options: Any) -> str:
    with pytest.raises(BadInputError) as caught:
        load(path, **options)
    assert "\n" not in caught.value.message and caught.value.param == "task.path"
    return caught.value.message


def score(path: str, *answered: tuple[str, Problem]) -> list[float]:
    with WeightedRewards(TaskOptions(path=Path(path))) as rewards:
        rewards.check_answers([problem for _, problem in answered])
        scores = rewards.score_all(answered)
        assert vars(rewards.unscored) == {"timeouts": 0, "crashes": 0, "failures": 0}
        return scores


def test_a_source_of_another_distribution_brings_its_problems_and_its_scorer() -> None:
    task = load("cubes:please", arguments={"count": 40})
    assert len(task.train) + len(task.held_out) + len(task.probes) == 40
    problem = task.train[0]
    assert problem.messages[0]["content"].endswith("cubed, please?") and problem.record["kind"] == "cube"
    assert problem.place.startswith("cubes:please, record ")
    assert score("cubes:please", (problem.answer, problem), ("7", problem)) == [1.0, 0.0]
    assert from_anywhere(Path("cubes:please")) == Path("cubes:please")


def test_a_source_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reheatd.tasks.sources.MOST_RECORDS", 1000)
    assert refused("endless:").startswith("endless: gives more than 1,000 records")


def test_sources_give_every_process_the_same_problems() -> None:
    program = (
        "from pathlib import Path; from reheatd.options import TaskOptions, WindowOptions\n"
        "from reheatd.task_data import load_task\n"
        "task = load_task(TaskOptions(path=Path('unordered:'), eval_count=6), WindowOptions(probe_count=8))\n"
        "print([problem.answer for problem in task.train])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1 and b"word" in runs.pop()


def test_what_goes_wrong_in_a_source_is_said_in_one_line() -> None:
    message = refused("nobody:x")
    assert message.startswith("nobody:x: no source of tasks is called nobody; use a file, a data set of the hub")
    assert "cubes:..." in message and "reasoning_gym:..." in message
    assert refused("broken:x").startswith("broken:x failed after 1 records: RuntimeError: no more problems; see task.")
    assert "cubes:x cannot be used: TypeError" in refused("cubes:x", arguments={"size": 3})
    assert "missing:x cannot be used: AttributeError" in refused("missing:x")
    assert re.match(r"dying:x failed after \d records: its process ended; see task", refused("dying:x"))
    assert 'cubes:x, record 1: has no "gold", which task.columns names' in refused(
        "cubes:x", columns={"answer": "gold"}
    )


def test_reasoning_gym_brings_its_generators_and_scorers() -> None:
    task = load("reasoning_gym:chain_sum", arguments={"size": 40, "seed": 3, "min_terms": 2, "max_terms": 3})
    assert len(task.train) + len(task.held_out) + len(task.probes) == 40
    problem = task.train[0]
    assert "arithmetic problem" in problem.messages[0]["content"]
    right, other = problem.answer, str(int(problem.answer) + 1)
    completions = (right, f"Let me see. <answer> {right} </answer>", other, f"<answer>{other}</answer>")
    assert score("reasoning_gym:chain_sum", *((text, problem) for text in completions)) == [1.0, 1.0, 0.0, 0.0]


def test_a_problem_with_many_right_answers_is_judged_by_its_scorer() -> None:
    problem = load("reasoning_gym:graph_color", arguments={"size": 24}).train[0]
    puzzle = problem.record["entry"]["metadata"]["puzzle"]
    assert problem.answer == "" and puzzle["vertices"]
    one_colour = str({str(vertex): puzzle["color_options"][0] for vertex in puzzle["vertices"]}).replace("'", '"')
    assert score("reasoning_gym:graph_color", (one_colour, problem), ("no", problem))[1] < 0.5


def test_a_wrong_name_or_option_of_reasoning_gym_is_refused() -> None:
    assert "reasoning-gym has no 'chain_sums'; it has chain_sum" in refused("reasoning_gym:chain_sums")
    assert "cannot be used: TypeError" in refused("reasoning_gym:chain_sum", arguments={"terms": 3})


def test_a_source_without_its_package_says_what_to_install(tmp_path: Path) -> None:
    absent = 'raise ModuleNotFoundError("No module named \'reasoning_gym\'", name="reasoning_gym")\n'
    (tmp_path / "reasoning_gym.py").write_text(absent)
    assert "needs reasoning_gym: pip install 'reheatd[reasoning-gym]'" in refused("reasoning_gym:chain_sum")


def test_verifiers_brings_the_tasks_of_a_taskset_and_scores_them() -> None:
    task = load("verifiers:shout-v1", arguments={"limit": 30, "prefix": "name"})
    assert len(task.train) + len(task.held_out) + len(task.probes) == 30
    problem = task.train[0]
    assert [message["role"] for message in problem.messages] == ["system", "user"]
    word = problem.record["task"]["word"]
    assert word.startswith("name")
    completions = (f"{word.upper()}!", word.upper(), "hello!", "hello")
    assert score("verifiers:shout-v1", *((text, problem) for text in completions)) == [1.0, 0.75, 0.25, 0.0]
    assert (
        "verifiers:agents-v1 cannot be used: the tasks of agents-v1 need tools, a container or an agent's"
        in refused("verifiers:agents-v1")
    )
