"""Configuration files and environment variables that are not what they should be: one line says what is wrong."""

from pathlib import Path

import pytest

from reheatd.config import load_settings
from reheatd.errors import ConfigError

TABLE = '[policy]\nmodel = "Ünïcode"\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "reheatd.toml"
    file.write_bytes(TABLE.encode(encoding))
    assert load_settings(file).policy.model == "Ünïcode"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TABLE.encode("utf-16"), "is not UTF-8 but UTF-16 or UTF-32"),
        (TABLE.encode("utf-32"), "is not UTF-8 but UTF-16 or UTF-32"),
        (TABLE.encode("latin-1"), "is not UTF-8 at byte 19; save it as UTF-8"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"server.port = " + b"9" * 5000, "not valid TOML: Exceeds the limit"),
        (b"server.port = 0x" + b"f" * 5000, "server.port = a number of thousands of digits"),
        (b'task.path = "a\\u0000b"', r"task.path = 'a\\x00b' holds a null character"),
        (b'lora.target_modules = "q_proj"', "lora.target_modules = 'q_proj': "),
        (b'policy.model = "' + b"x" * 5000 + b'"\nserver.port = "' + b"y" * 5000 + b'"', r"y{190}y*\.\.\.: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "reheatd.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_settings(file)
    assert "\n" not in caught.value.message and len(caught.value.message) < 1000


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "reheatd.toml"
    file.mkdir()
    with pytest.raises(ConfigError, match=r"reheatd\.toml does not exist"):
        load_settings(file)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("REHEATD_SERVER__PORT", "abc", "server.port = 'abc': must be a whole number"),
        (
            "REHEATD_LORA__TARGET_MODULES",
            "x",
            "REHEATD_LORA__TARGET_MODULES is not JSON .Expecting value at column 1",
        ),
        ("REHEATD_CONTROL", "auto", "REHEATD_CONTROL is not JSON"),
        (
            "REHEATD_CONTROL__TRIGGER",
            "[" * 100_000,
            r"REHEATD_CONTROL__TRIGGER is not JSON .it is nested",
        ),
        ("REHEATD_ENGINE__EXTRA_ARGS", "9" * 5000, r"REHEATD_ENGINE__EXTRA_ARGS is not JSON .Exceeds the limit"),
        ("REHEATD_DATA_DIR", "\udcff", r"data_dir = '\\udcff' holds \\udcff, half of a surrogate pair"),
        ("REHEATD_REHEAT", '{"tau": NaN}', "reheat.tau = nan: must be a finite number"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_settings()
    assert "\n" not in caught.value.message and len(caught.value.message) < 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REHEATD_BROKER", '{"url": "redis://:s3cret@host"'),
        ("REHEATD_BROKER", '{"url": "redis://:s3cret@\\u0000"}'),
        ("REHEATD_BROKER__URL", "redis://:s3cret@host/\udcff"),
        ("REHEATD_BROKER__PASSWORD_FILE", "/s3cret\udcff"),
    ],
)
def test_no_message_shows_a_password(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"^(REHEATD_BROKER|broker)") as caught:
        load_settings()
    assert "s3cret" not in caught.value.message


def test_lists_and_tables_in_the_environment_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHEATD_LORA__TARGET_MODULES", '["q_proj"]')
    monkeypatch.setenv("REHEATD_CONTROL", '{"mode": "observe"}')
    settings = load_settings()
    assert settings.lora.target_modules == ["q_proj"]
    assert settings.control.mode == "observe"
