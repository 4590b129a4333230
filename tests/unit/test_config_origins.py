"""Where the values of settings come from."""

from pathlib import Path

import pytest

from reheatd.config import Settings, load_settings
from reheatd.config_origins import DEFAULT, Origin


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def test_the_source_that_wins_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('data_dir = "data"\n[entropy]\ninterval_s = 10\ntop_k = 11\npatience = 2\n[server]\nport = 1\n')
    monkeypatch.setenv("REHEATD_ENTROPY__INTERVAL_S", "20")
    monkeypatch.setenv("REHEATD_SERVER__PORT", "2222")
    monkeypatch.setenv("reheatd_control", '{"mode": "observe"}')
    monkeypatch.setenv("REHEATD_CONTROL__RL", "off")
    monkeypatch.setenv("REHEATD_TASK__REWARDS__exact", "1.0")
    settings = load_settings(file, {"server": {"port": 3333}})
    assert settings.server.port == 3333 and settings.origin("server.port") == Origin("command line")
    assert settings.origin("entropy.interval_s") == Origin("environment", "REHEATD_ENTROPY__INTERVAL_S")
    assert settings.origin("entropy.top_k") == settings.origin("data_dir") == Origin("file", str(file))
    assert settings.origin("entropy.patience") == Origin("file", str(file)), "also where it is the default"
    assert settings.origin("control.mode") == Origin("environment", "REHEATD_CONTROL")
    assert settings.origin("control.rl") == Origin("environment", "REHEATD_CONTROL__RL")
    assert settings.origin("task.rewards") == Origin("environment", "REHEATD_TASK__REWARDS__EXACT")
    assert settings.origin("entropy.margin") == DEFAULT == Settings().origin("server.port")


def test_what_a_preset_sets_is_told_from_what_is_given_beside_it(file: Path) -> None:
    file.write_text('[reheat]\npreset = "paper"\ntarget_entropy = 0.5\nmax_tokens = 77\n')
    settings = load_settings(file)
    preset = Origin("preset", "reheat.preset = paper")
    assert settings.origin("reheat.max_tokens") == settings.origin("reheat.preset") == Origin("file", str(file))
    set_by_it = [name for name in settings.reheat.presets["paper"] if settings.origin(f"reheat.{name}") == preset]
    assert set_by_it and "target_ratio" not in set_by_it and settings.reheat.target_ratio is None
    for name in set_by_it:
        assert getattr(settings.reheat, name) == settings.reheat.presets["paper"][name]


def test_what_the_daemon_finds_when_it_starts_takes_the_place_of_auto(file: Path) -> None:
    file.write_text('[policy]\nmax_model_len = "auto"\nmodel = "tiny"\n')
    settings = load_settings(file)
    found = settings.found_at_start("policy", "max_model_len", 512, "what the policy was made for")
    assert found.policy.length == 512
    assert found.origin("policy.max_model_len") == Origin("start", "what the policy was made for")
    assert found.origin("policy.model") == settings.origin("policy.max_model_len") == Origin("file", str(file))
