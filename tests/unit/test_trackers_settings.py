"""Trackers in the configuration: what cannot be used is refused at the start, with the way out."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli.doctor import check_trackers
from reheatd.backup import back_up
from reheatd.config import Settings, load_settings
from reheatd.database import connect
from reheatd.errors import ConfigError, MissingExtraError
from reheatd.trackers import installed
from reheatd.trackers.children import tracker_commands
from reheatd.trackers.installed import NEEDED, installed_trackers, require_trackers
from reheatd.trackers.job_facts import policy_name


def settings(*names: str) -> Settings:
    return Settings.model_validate({"trackers": {"names": names}})


def test_nothing_is_tracked_by_default() -> None:
    assert not tracker_commands(load_settings())


def test_our_trackers_are_installed() -> None:
    assert installed_trackers().keys() >= NEEDED.keys()
    require_trackers(NEEDED)


def test_a_name_that_no_tracker_has_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"trackers\.names = 'wandbb': no tracker has this name; did you mean wandb\?"
    ):
        require_trackers(["wandbb"])
    with pytest.raises(ConfigError, match="use mlflow, tensorboard, trackio, wandb"):
        require_trackers(["neptune"])


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "missing_modules", lambda *modules: ", ".join(modules))
    with pytest.raises(
        MissingExtraError, match=r"trackers\.names has mlflow, which needs mlflow, .*; pip install 'reheatd\[mlflow\]'"
    ) as caught:
        require_trackers(["mlflow"])
    assert (caught.value.exit_code, caught.value.param) == (2, "trackers.names")
    check = check_trackers(settings("wandb", "typo"))
    assert check.level == "missing"
    assert check.fix.startswith("pip install 'reheatd[wandb]'; ")


def test_the_doctor_names_the_trackers() -> None:
    assert check_trackers(settings()).level == "ok"
    assert (check_trackers(settings("wandb")).level, check_trackers(settings("wandb")).detail) == ("ok", "wandb")


def test_a_tracker_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "reheatd.toml").write_text('[trackers]\nnames = ["wandb", "mlflow", "wandb"]\n')
    with pytest.raises(ConfigError, match="trackers: names has wandb twice"):
        load_settings(tmp_path / "reheatd.toml")


def test_the_daemon_does_not_start_with_a_tracker_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "reheatd.toml").write_text(
        f'data_dir = "{tmp_path}/data"\n[trackers]\nnames = ["neptune"]\n[engine]\nurl = "http://127.0.0.1:1"\n'
    )
    argv = [sys.executable, "-m", "cli.main", "serve", "--config", str(tmp_path / "reheatd.toml"), "--port", "0"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 2
    assert "trackers.names = 'neptune'" in done.stderr and "use mlflow" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_password_in_the_address_of_mlflow_is_shown_to_nobody() -> None:
    given = Settings.model_validate({"trackers": {"names": ["mlflow"], "mlflow_uri": "http://me:hunter2@mlflow"}})
    (command,) = tracker_commands(given)
    assert "hunter2" not in repr(given) + repr(command) + " ".join(command.argv)


def test_a_policy_has_the_name_on_the_hub_or_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-500").mkdir()
    assert policy_name("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"
    assert policy_name(str(tmp_path / "checkpoint-500")) == "checkpoint-500"


def test_a_back_up_has_the_progress_of_trackers_and_not_their_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    connect(data / "reheatd.sqlite3").close()
    for name in ("trackers/wandb.json", "runs/mlflow/mlflow.db"):
        (data / name).parent.mkdir(parents=True)
        (data / name).write_text("{}")
    manifest = back_up(data, tmp_path / "backup.tar")
    assert "trackers/wandb.json" in manifest.files
    assert not any(name.startswith("runs/") for name in manifest.files)
