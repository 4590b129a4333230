"""Rewards run in children that are killed one by one when they hang, and replaced when they die."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from reheatd.errors import BadInputError
from reheatd.task_data import Problem
from tests.rewarding import answers
from tests.waiting import HANGS_S, wait_until
from workers.rewards.scoring import Unscored
from workers.rewards.verifier import Verifier

REWARD = """
import os, subprocess, sys, time

def reward(completion, answer):
    print("noise on stdout")
    match completion.split():
        case ["hang"]:
            time.sleep(900)
        case ["hang-in-grandchild", name]:
            subprocess.run([sys.executable, "-c", "import time; time.sleep(900)", name])
        case ["pid"]:
            return os.getpid()
        case ["die"]:
            os._exit(3)
        case ["abort"]:
            os.abort()
        case ["raise"]:
            raise RuntimeError("no")
        case ["not", "finite", value]:
            return float(value)
    return 0.25 if completion == answer else 0
"""


@pytest.fixture(autouse=True)
def my_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_reward.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def soon_s(my_reward: None) -> float:
    """Ten times as long as a completion takes on this machine, and a second at least."""
    with Verifier("my_reward:reward", timeout_s=HANGS_S, children=1) as verifier:
        verifier.score_all(answers([("a", "a")]))
        began = time.monotonic()
        verifier.score_all(answers([("a", "a")]))
        return max(1.0, 10 * (time.monotonic() - began))


def test_user_function_runs_in_persistent_children() -> None:
    with Verifier("my_reward:reward", children=1) as verifier:
        pairs = [("a", "a"), ("b", "a"), ("é\n", "é\n")]
        assert verifier.score_all(answers(pairs)) == [0.25, 0.0, 0.25]
        first, second = verifier.score_all(answers([("pid", ""), ("pid", "")]))
        assert first == second != os.getpid()
        assert verifier.score_all(answers([])) == []
        assert verifier.unscored == Unscored()
    assert not is_running(int(first))


def test_children_share_the_work_and_order_is_kept() -> None:
    with Verifier("my_reward:reward", children=3) as verifier:
        pairs = [("pid", "")] * 60 + [(str(i), str(i) if i % 3 else "") for i in range(200)]
        rewards = verifier.score_all(answers(pairs))
    assert len(set(rewards[:60])) > 1
    assert rewards[60:] == [0.25 if i % 3 else 0.0 for i in range(200)]


def test_large_completions_pass_whole() -> None:
    large = "é" * 500_000
    with Verifier("my_reward:reward", children=2) as verifier:
        assert verifier.score_all(answers([(large, large), (large, "")] * 2)) == [0.25, 0.0] * 2


@pytest.mark.parametrize(
    ("completion", "unscored", "said"),
    [
        ("hang", Unscored(timeouts=1), "it gave no reward within "),
        ("die", Unscored(crashes=1), "its process ended"),
        ("abort", Unscored(crashes=1), "its process ended"),
        ("raise", Unscored(failures=1), "it failed: RuntimeError: no"),
    ],
)
def test_what_goes_wrong_costs_its_own_completion_and_is_counted(
    completion: str, unscored: Unscored, said: str, soon_s: float
) -> None:
    with Verifier("my_reward:reward", timeout_s=soon_s, children=2) as verifier:
        pairs = [("a", "a")] * 5 + [(completion, completion)] + [("a", "a")] * 5
        judged = verifier.judge_all(answers(pairs))
        assert [judgement.value for judgement in judged] == [0.25] * 5 + [0.0] + [0.25] * 5
        words = [judgement.said or "" for judgement in judged]
        assert words[5].startswith(said) and not any(words[:5] + words[6:])
        assert verifier.unscored == unscored
        assert verifier.score_all(answers([("a", "a")] * 2)) == [0.25] * 2


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_reward_that_is_no_number_is_refused_in_one_line(value: str) -> None:
    problem = Problem([], "a", place="task.jsonl, line 7")
    with Verifier("my_reward:reward", children=2) as verifier:
        with pytest.raises(BadInputError) as caught:
            verifier.score_all([("a", problem), (f"not finite {value}", problem), ("a", problem)])
        assert caught.value.message == (
            f"reward 'my_reward:reward' returned {value} for an answer to task.jsonl, line 7; return a finite number, "
            "such as 0 for what cannot be scored"
        )


def test_a_hanging_verifier_is_killed_with_what_it_started(tmp_path: Path, soon_s: float) -> None:
    grandchildren: list[psutil.Process] = []

    def look() -> None:
        def started() -> list[psutil.Process]:
            below = psutil.Process().children(recursive=True)
            return [process for process in below if process.cmdline()[-1:] == [tmp_path.name]]

        grandchildren.extend(wait_until(started))

    with Verifier("my_reward:reward", timeout_s=2 * soon_s, children=1) as verifier:
        looking = threading.Thread(target=look)
        looking.start()
        assert verifier.score_all(answers([(f"hang-in-grandchild {tmp_path.name}", ""), ("a", "a")])) == [0.0, 0.25]
        assert verifier.unscored == Unscored(timeouts=1)
        looking.join()
    assert grandchildren and not any(is_running(process.pid) for process in grandchildren)


def test_children_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import time\n"
        "from reheatd.task_data import Problem\n"
        "from workers.rewards.verifier import Verifier\n"
        "with Verifier('my_reward:reward', children=2, timeout_s=900) as verifier:\n"
        "    print(*map(int, verifier.score_all([('pid', Problem([], ''))] * 40)), flush=True)\n"
        "    verifier.score_all([('hang', Problem([], ''))] * 2)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pids = {int(pid) for pid in worker.stdout.readline().split()}
        assert pids
        worker.kill()
    wait_until(lambda: not any(map(is_running, pids)))


def test_children_outlive_the_thread_that_had_completions_scored(soon_s: float) -> None:
    """Linux ends a child with the thread that started it, and a child that is replaced is started in between."""
    with Verifier("my_reward:reward", timeout_s=soon_s, children=1) as verifier:
        scoring = threading.Thread(target=verifier.score_all, args=(answers([("die", ""), ("a", "a")]),))
        scoring.start()
        scoring.join()
        assert verifier.score_all(answers([("a", "a")] * 3)) == [0.25] * 3
        assert verifier.unscored == Unscored(crashes=1)


def test_reward_that_cannot_load_fails_at_once() -> None:
    with pytest.raises(BadInputError, match="no_such_module_anywhere"), Verifier("no_such_module_anywhere:f"):
        pass


def test_reward_whose_module_ends_the_process_names_itself(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos._exit(1)\n")
    with pytest.raises(BadInputError, match="'deadly:f' cannot be used: its process ended"), Verifier("deadly:f"):
        pass
