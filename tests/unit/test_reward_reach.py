"""What the process of a reward can reach of the worker's files and environment."""

import os
import sqlite3
from pathlib import Path

import pytest

from reheatd.process.landlock import is_available
from tests.rewarding import answers
from workers.rewards.reach import passed_environment
from workers.rewards.verifier import Verifier

confined = pytest.mark.skipif(not is_available(), reason="this kernel has no Landlock")

REWARD = """
import os, pathlib, subprocess, sys, tempfile
import helper
from package import part

def reads(completion, answer):
    try:
        return float(len(pathlib.Path(completion).read_bytes()) > 0)
    except OSError:
        return 0.0

def reads_in_a_child(completion, answer):
    return float(subprocess.run(["cat", completion], capture_output=True).returncode == 0)

def works(completion, answer):
    import decimal, sympy, numpy
    assert helper.VALUE == 1 and part.VALUE == 2
    assert subprocess.run([sys.executable, "-c", "import json"]).returncode == 0
    assert subprocess.run(["ls", "/usr"], capture_output=True).returncode == 0
    with tempfile.TemporaryFile() as file:
        file.write(b"scratch")
    pathlib.Path(tempfile.gettempdir(), "folder").mkdir(exist_ok=True)
    open("/dev/null", "w").write("x")
    return 1.0

def writes(completion, answer):
    try:
        pathlib.Path(completion).write_text("x")
    except OSError:
        return 0.0
    return 1.0

def variable(completion, answer):
    seen = os.environ.get(completion, "") + pathlib.Path("/proc/self/environ").read_text()
    return float(answer in seen)
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory as users have it: a reward, a data folder, a configuration with secrets."""
    (tmp_path / "my_reward.py").write_text(REWARD)
    (tmp_path / "helper.py").write_text("VALUE = 1\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "part.py").write_text("VALUE = 2\n")
    (tmp_path / "package" / "words.txt").write_text("words")
    (tmp_path / "reheatd.toml").write_text("[broker]\nurl = 'redis://:s3cret@host'\n")
    (tmp_path / ".reheatd").mkdir()
    sqlite3.connect(tmp_path / ".reheatd" / "reheatd.sqlite3").execute("CREATE TABLE t (x)").connection.close()
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    (tmp_path / "home" / ".ssh" / "id_ed25519").write_text("key")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(function: str, *pairs: tuple[str, str], **options: object) -> list[float]:
    with Verifier(f"my_reward:{function}", children=1, **options) as verifier:  # type: ignore[arg-type]
        rewards = verifier.score_all(answers(pairs))
        assert verifier.unscored.failures == 0
        return rewards


def test_ordinary_rewards_work() -> None:
    assert score("works", ("", "")) == [1.0]


@confined
@pytest.mark.parametrize("function", ["reads", "reads_in_a_child"])
def test_files_of_the_user_cannot_be_read(project: Path, function: str) -> None:
    private = [
        ".reheatd/reheatd.sqlite3",
        str(project / ".reheatd" / "reheatd.sqlite3"),
        str(project / "reheatd.toml"),
        str(project / "home" / ".ssh" / "id_ed25519"),
        f"/proc/self/root{project / 'reheatd.toml'}",
        f"/proc/{os.getpid()}/environ",
        f"/proc/{os.getppid()}/environ",
        "/proc/1/environ",
        "/etc/shadow",
    ]
    assert all(reads_here(file) for file in private[:5])
    assert score(function, *((file, "") for file in private)) == [0.0] * len(private)
    assert score(function, ("package/words.txt", ""), (str(project / "helper.py"), "")) == [1.0, 1.0]


def reads_here(file: str) -> bool:
    return len(Path(file).read_bytes()) > 0


@confined
def test_only_scratch_can_be_written(project: Path) -> None:
    assert score("writes", (str(project / "new"), ""), ("my_reward.py", ""), ("/tmp/new-file", "")) == [0.0] * 3


@confined
def test_what_the_user_names_can_be_read(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data" / "words.txt").write_text("words")
    assert score("reads", ("data/words.txt", "")) == [0.0]
    assert score("reads", ("data/words.txt", ""), readable=[Path("data")]) == [1.0]


def test_the_environment_has_no_secret_unless_the_user_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "REHEATD_BROKER_URL": "redis://:s3cret@h",
        "REHEATD_BROKER__URL": "redis://:s3cret@h",
        "VLLM_API_KEY": "s3cret",
        "REHEATD_TAP_KEY": "s3cret",
        "MY_JUDGE_KEY": "s3cret",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    assert score("variable", *((name, "s3cret") for name in secrets)) == [0.0] * len(secrets)
    assert score("variable", ("MY_JUDGE_KEY", "s3cret"), variables=["MY_JUDGE_KEY"]) == [1.0]
    assert passed_environment({"PATH": "/bin", "LC_ALL": "C", "REHEATD_X": "y"}) == {"PATH": "/bin", "LC_ALL": "C"}


@confined
def test_a_reward_that_reads_too_much_while_it_loads_is_told_what_to_do(project: Path) -> None:
    from reheatd.errors import BadInputError

    (project / "greedy.py").write_text("WORDS = open('words.txt').read()\n")
    (project / "words.txt").write_text("words")
    with pytest.raises(BadInputError, match=r"Permission denied.*workers\.reward_paths"), Verifier("greedy:f"):
        pass
