"""`reheatd init` writes a file that the daemon reads, at the defaults."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cli.init import full_text, init, short_text
from reheatd.config import Settings, load_settings
from reheatd.errors import BadInputError, ConflictError
from reheatd.options import Options
from reheatd.process.gpus import Gpu
from tests.unit.test_cli_commands import reheatd


@pytest.mark.parametrize("full", [False, True])
def test_the_file_as_written_changes_nothing(tmp_path: Path, full: bool) -> None:
    path = tmp_path / "reheatd.toml"
    init(path, full=full)
    assert load_settings(path).model_dump() == Settings().model_dump()


def test_the_short_file_has_what_was_given_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "reheatd.toml"
    odd = 'runs/né"1\\2'
    done = reheatd(
        "init", str(path), "--policy", odd, "--reference", "Qwen/Qwen3-4B-Base", "--mode", "auto", "--port", "9000"
    )
    assert done.returncode == 0 and "reheatd doctor --config" in done.stdout
    written = tomllib.loads(path.read_text())
    assert written == {"policy": {"model": odd, "reference": "Qwen/Qwen3-4B-Base"}, "server": {"port": 9000}}
    assert len(path.read_text().splitlines()) < 12


def test_what_the_daemon_would_refuse_is_not_written(tmp_path: Path) -> None:
    done = reheatd("init", str(tmp_path / "reheatd.toml"), "--port", "70000")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "server.port = 70000" in done.stderr
    assert not list(tmp_path.iterdir())


def test_every_key_and_some_values_are_two_files(tmp_path: Path) -> None:
    done = reheatd("init", str(tmp_path / "reheatd.toml"), "--full", "--port", "9000")
    assert done.returncode == 2 and "leave out server.port" in done.stderr


def test_in_a_terminal_it_asks_for_what_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "reheatd.toml"
    command = [sys.executable, "-m", "cli.main", "init", str(path), "--policy", "runs/a"]
    answers = {"trained from": "base", "problems": "", "collapse": "observe"}
    assert in_terminal(command, answers) == 0
    written = tomllib.loads(path.read_text())
    assert written == {"policy": {"model": "runs/a", "reference": "base"}, "control": {"mode": "observe"}}


def test_the_file_names_the_gpus_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.init.visible_gpus", lambda: [Gpu("0", "GPU 0: NVIDIA H200", "GPU-1", "0")])
    assert "# On this machine: GPU 0: NVIDIA H200. `reheatd plan`" in short_text({})


def in_terminal(command: list[str], answers: dict[str, str]) -> int:
    """Runs a command in a terminal and types each answer when its question shows; returns the exit code."""
    controller, terminal = pty.openpty()
    child = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True)
    os.close(terminal)
    shown = ""
    for question, answer in answers.items():
        while question not in " ".join(shown.split()):
            shown += os.read(controller, 1000).decode()
        shown = ""
        os.write(controller, f"{answer}\n".encode())
    with contextlib.suppress(OSError):  # the terminal is closed when the command ends
        while os.read(controller, 1000):
            pass
    os.close(controller)
    return child.wait()


def test_every_key_taken_out_of_its_comment_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "reheatd.toml"
    path.write_text(re.sub(r"^# (?=[a-z_]+ = \S)", "", full_text(), flags=re.MULTILINE))
    assert load_settings(path).model_dump() == Settings().model_dump()
    written = tomllib.loads(path.read_text())
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Options):
            defaults = {key for key, inner in field.annotation.model_fields.items() if inner.default is not None}
            assert set(written[name]) == defaults
            assert all(inner.description for inner in field.annotation.model_fields.values()), name


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_folder_is_no_file_to_write(name: str) -> None:
    with pytest.raises(BadInputError, match="is a folder; name the file"):
        init(Path(name), force=True)


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "reheatd.toml"
    path.write_text("# mine\n")
    with pytest.raises(ConflictError, match="--force"):
        init(path)
    assert path.read_text() == "# mine\n"
    init(path, force=True)
    assert path.read_text() != "# mine\n"
