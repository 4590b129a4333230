"""A user's own folders `workers`, `cli` and `reheatd` do not stand in for ours."""

import os
import subprocess
from pathlib import Path

import pytest

from reheatd.config_tables import WorkersSection
from reheatd.config_tracing import TracingSection
from reheatd.engine.launch import engine_command
from reheatd.errors import BadInputError
from reheatd.process.children import python_module
from reheatd.process.worker_command import worker_command
from tests.known_settings import known_settings
from tests.rewarding import answers
from workers.rewards.verifier import Verifier

CHECKOUT = Path(__file__).parents[2]
BROKER = "redis://127.0.0.1:9/0"


def write_stranger(package: Path) -> None:
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('this is a stranger')\n")


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with packages that are called like ours."""
    for name in ("workers", "cli", "reheatd"):
        write_stranger(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shadowed(tmp_path: Path) -> dict[str, str]:
    """An environment in which a user's `workers` comes before ours."""
    write_stranger(tmp_path / "workers")
    return {**os.environ, "PYTHONPATH": f"{tmp_path}:{CHECKOUT}"}


def run(command: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_the_command_line_runs_among_strangers(strangers: Path) -> None:
    done = run(python_module("cli.main", "--version"))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_starts_among_strangers(strangers: Path) -> None:
    command = worker_command(BROKER, WorkersSection(), TracingSection(), index=1)
    done = run([*command.argv, "--help"], {**os.environ, **command.env})
    assert done.returncode == 0, done.stderr
    assert "--concurrency" in done.stdout


def test_the_engine_is_started_without_the_working_directory() -> None:
    command = engine_command(known_settings(), Path("model"), 8100, "cpu")
    module = python_module("reheatd.engine.server")
    assert command.argv[: len(module)] == module


def test_a_reward_of_the_working_directory_is_found_among_strangers(strangers: Path) -> None:
    (strangers / "my_reward.py").write_text("def same(completion, answer):\n    return completion == answer\n")
    with Verifier("my_reward:same", children=1) as verifier:
        assert verifier.score_all(answers([("a", "a"), ("a", "b")])) == [1.0, 0.0]


def test_an_installed_module_comes_before_one_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "httpx.py").write_text("raise RuntimeError('this is a stranger')\n")
    (tmp_path / "my_reward.py").write_text("import httpx\ndef ours(completion, answer):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    with Verifier("my_reward:ours", children=1) as verifier:
        assert verifier.score_all(answers([("a", "a")])) == [1.0]


def test_a_reward_on_the_python_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_reward.py").write_text("def half(completion, answer):\n    return 0.5\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{CHECKOUT}")
    with Verifier("their_reward:half", children=1) as verifier:
        assert verifier.score_all(answers([("a", "a")])) == [0.5]


def test_a_reward_in_a_package_called_like_ours_is_told_so(strangers: Path) -> None:
    (strangers / "workers" / "polite.py").write_text("def polite(completion, answer):\n    return 1\n")
    hint = "workers is a package of reheatd's, call yours something else"
    with pytest.raises(BadInputError, match=hint), Verifier("workers.polite:polite", children=1):
        pass


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["worker", "--broker-url", BROKER]], ids=" ".join)
def test_a_stranger_that_comes_first_all_the_same_is_named_in_one_line(
    command: list[str], shadowed: dict[str, str], tmp_path: Path
) -> None:
    done = run(python_module("cli.main", *command), shadowed)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"`import workers` finds {tmp_path / 'workers'} instead of {CHECKOUT / 'workers'}; rename" in line


def test_doctor_names_a_stranger(shadowed: dict[str, str], tmp_path: Path) -> None:
    done = run(python_module("cli.main", "doctor", "--json"), shadowed)
    assert done.returncode == 1
    assert f"`import workers` finds {tmp_path / 'workers'}, which is not reheatd's" in done.stdout
