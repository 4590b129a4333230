"""The secret that daemon and engines share: where it comes from, and that no message shows it."""

from pathlib import Path

import pytest

from reheatd.config import load_settings
from reheatd.config_tables import EngineSection
from reheatd.engine.credentials import (
    API_KEY_ENV,
    EngineCredentials,
    daemon_credentials,
    standalone_credentials,
)
from reheatd.engine.launch import engine_command
from reheatd.errors import ConfigError
from tests.known_settings import known_settings

SECRET = "s3cret-of-the-engine"


@pytest.fixture(autouse=True)
def no_key_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEY_ENV, raising=False)


def elsewhere(**options: object) -> EngineSection:
    return EngineSection.model_validate({"url": "http://gpu-1:8100", **options})


def test_engines_of_the_daemon_get_another_key_each_time() -> None:
    made = [daemon_credentials(EngineSection()) for _ in range(2)]
    assert made[0] and made[1]
    assert made[0].api_key != made[1].api_key and len(made[0].api_key) >= 32
    assert made[0].tap_key not in (made[0].api_key, made[1].tap_key)


def test_engines_elsewhere_share_the_key_in_the_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    assert daemon_credentials(elsewhere()) is None
    monkeypatch.setenv(API_KEY_ENV, "another")
    assert daemon_credentials(elsewhere()) == EngineCredentials("another")
    assert daemon_credentials(elsewhere(api_key_file=tmp_path / "key")) == EngineCredentials(SECRET)
    assert standalone_credentials(EngineSection(api_key_file=tmp_path / "key")) == EngineCredentials(SECRET)


def test_an_engine_started_by_hand_without_a_key_stays_on_loopback() -> None:
    assert standalone_credentials(EngineSection()) is None
    with pytest.raises(ConfigError, match=r"engine\.host = '0\.0\.0\.0' is open to others.*engine\.api_key_file"):
        standalone_credentials(EngineSection(host="0.0.0.0"))


@pytest.mark.parametrize("content", ["", "  \n", "two words", f"{SECRET}\nmore", "größe"])
def test_a_file_without_one_secret_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"engine\.api_key_file") as caught:
        daemon_credentials(elsewhere(api_key_file=tmp_path / "key"))
    assert SECRET not in caught.value.message
    with pytest.raises(ConfigError, match=r"engine\.api_key_file.*No such file"):
        daemon_credentials(elsewhere(api_key_file=tmp_path / "none"))


def test_the_key_reaches_the_engine_by_its_environment_alone() -> None:
    credentials = EngineCredentials(SECRET)
    made = engine_command(known_settings(), Path("/m"), 1, "cpu", credentials=credentials, tap_address="127.0.0.1:5")
    assert made.env[API_KEY_ENV] == SECRET
    assert SECRET not in " ".join(made.argv) + repr(made) + repr(credentials)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f'extra_args = ["--api-key", "{SECRET}"]', "extra_args has --api-key"),
        (f'extra_args = ["--api-key={SECRET}"]', "extra_args has --api-key"),
        (f'url = "http://me:{SECRET}@gpu-1:8100"', "url holds credentials"),
    ],
)
def test_a_key_in_the_configuration_itself_is_refused_and_not_shown(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "reheatd.toml"
    file.write_text(f"[engine]\n{line}\n")
    with pytest.raises(ConfigError, match=f"engine: {says}.*api_key_file") as caught:
        load_settings(file)
    assert SECRET not in caught.value.message
