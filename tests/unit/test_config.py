"""Settings: precedence of the sources, and errors that name the key and the way out."""

from pathlib import Path

import pytest

from reheatd.config import Settings, load_settings
from reheatd.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    file = folder / "reheatd.toml"
    file.write_text(text)
    return file


def test_sources_rank_file_below_environment_below_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "[entropy]\ninterval_s = 10\ntop_k = 11\n[server]\nport = 1111\n")
    monkeypatch.setenv("REHEATD_ENTROPY__INTERVAL_S", "20")
    monkeypatch.setenv("REHEATD_SERVER__PORT", "2222")
    settings = load_settings(file, {"server": {"port": 3333}})
    assert settings.entropy.interval_s == 20
    assert settings.entropy.top_k == 11
    assert settings.server.port == 3333
    assert settings.entropy.patience == 2


def test_file_in_the_current_folder_is_read_without_being_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "[server]\nport = 4444\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings().server.port == 4444


def test_unknown_key_names_the_closest_known_one(tmp_path: Path) -> None:
    file = write(tmp_path, "[entropy]\ninterval = 10\n")
    with pytest.raises(
        ConfigError, match=r"unknown configuration key entropy\.interval; did you mean entropy\.interval_s"
    ) as e:
        load_settings(file)
    assert e.value.exit_code == 2


def test_unusable_value_names_key_and_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.port = 99999: .*65535"):
        load_settings(write(tmp_path, "[server]\nport = 99999\n"))


@pytest.mark.parametrize("value", ["0", "-1.5", "inf", "nan", '"soon"'])
def test_reward_time_limit_that_limits_nothing_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"task\.reward_timeout_s = ") as caught:
        load_settings(write(tmp_path, f"[task]\nreward_timeout_s = {value}\n"))
    assert value.strip('"') in caught.value.message


@pytest.mark.parametrize(
    "line", ["collapse_ratio = 1.0", "collapse_nats = -0.1", "too_hot_ratio = 1.0", "margin = -1.0"]
)
def test_thresholds_that_mean_nothing_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=f"entropy.{line}"):
        load_settings(write(tmp_path, f"[entropy]\n{line}\n"))


@pytest.mark.parametrize("tau", ["0.5", "1.0"])
def test_a_configured_tau_that_would_cool_is_refused(tmp_path: Path, tau: str) -> None:
    with pytest.raises(ConfigError, match=rf"reheat\.tau = {tau} would make every reheat a cooling; set it above 1"):
        load_settings(write(tmp_path, f"[reheat]\ntau = {tau}\n"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('trigger = ["collapsed", "too hot"]', r"control\.trigger\.1 = 'too hot': must be 'collapsed', 'stalled' or"),
        ("trigger = []", r"control\.trigger = \[\]: must have at least 1"),
        ('trigger = ["stalled", "stalled"]', r"names 'stalled' twice"),
        ('rl = "always"', r"control\.rl = 'always': must be 'off', 'after_reheat' or 'continuous'"),
        ("continue_rl = true", r"unknown configuration key control\.continue_rl; did you mean control\.rl\?"),
    ],
)
def test_what_the_daemon_does_by_itself_is_named_exactly(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_settings(write(tmp_path, f"[control]\n{line}\n"))


def test_a_configured_clip_that_cannot_act_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rl\.clip_low = 0\.1 cannot act with epochs = 1 and minibatches = 1"):
        load_settings(write(tmp_path, "[rl]\nclip_low = 0.1\n"))
    assert load_settings(write(tmp_path, "[rl]\nclip_low = 0.1\nminibatches = 2\n")).rl.clip_low == 0.1


def test_missing_file_and_broken_toml_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; `reheatd init`"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(write(tmp_path, "[entropy\n"))


def test_the_schedule_keeps_to_its_share_of_the_engine() -> None:
    section = Settings.model_validate({"entropy": {"interval_s": 120, "max_share": 0.01}}).entropy
    assert section.pause_after(0.5) == 120
    assert section.pause_after(4.0) == 400


@pytest.mark.parametrize("value", ["8126", "localhost:", "localhost:70000", "localhost:x"])
def test_an_address_for_the_tap_has_host_and_port(value: str, tmp_path: Path) -> None:
    file = write(tmp_path, f"[entropy]\ntap_address = '{value}'\n")
    with pytest.raises(ConfigError, match=r"entropy\.tap_address.*host:port"):
        load_settings(file)


def test_engines_elsewhere_are_listed_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().engine.urls == []
    monkeypatch.setenv("REHEATD_ENGINE__URL", "http://a:8100, http://b:8100")
    assert load_settings().engine.urls == ["http://a:8100", "http://b:8100"]


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ({"url": "http://a:1", "replicas": 2}, "list them all in url"),
        ({"url": "http://a:1,b:2"}, "'b:2', which is not like http://host:8100"),
        ({"url": "http://a:1,http://a:1"}, "names an engine twice"),
        ({"url": ""}, "'', which is not like"),
    ],
)
def test_engines_that_cannot_be_are_refused(engine: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_settings(overrides={"engine": engine})


def test_two_baselines_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, '[policy]\nreference = "me/base"\n[entropy]\nbaseline_nats = 0.8')
    with pytest.raises(ConfigError, match=r"policy\.reference = me/base and entropy\.baseline_nats = 0\.8"):
        load_settings(file)
