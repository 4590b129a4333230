"""Whatever stands in the configuration file or the environment: settings, or an error that names the fault."""

import os
import unittest.mock
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reheatd.config import Settings, load_settings
from reheatd.errors import ConfigError
from reheatd.options import Options
from reheatd.text import flaw
from tests.unit.properties import ANY_JSON, ANY_TEXT, PRINTABLE, as_json, files_of, in_time, tries

SECTIONS: dict[str, list[str]] = {
    name: list(field.annotation.model_fields)
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Options)
}
KEYS = [("", "data_dir"), *((section, key) for section, keys in SECTIONS.items() for key in keys)]


def toml_of(tables: dict[tuple[str, str], Any]) -> str:
    """TOML with these values, most of which JSON writes as TOML does."""
    lines = [f"{'.'.join(filter(None, place))} = {as_json(value)}" for place, value in tables.items()]
    return "\n".join(lines)


VALUES = st.one_of(ANY_JSON, st.sampled_from(["auto", "off", [], ["q_proj"]]))
TOMLS = st.one_of(
    ANY_TEXT,
    st.builds(toml_of, st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3)),
    st.sampled_from(["a = " + "[" * 5000, "server.port = 0x" + "f" * 9000, "server.port = " + "9" * 9000]),
)
NAMES = st.one_of(
    st.sampled_from([f"REHEATD_{section}__{key}".upper() if section else "REHEATD_DATA_DIR" for section, key in KEYS]),
    st.sampled_from([f"REHEATD_{section}".upper() for section in SECTIONS]),
    st.builds(lambda section, rest: f"REHEATD_{section.upper()}__{rest}", st.sampled_from([*SECTIONS]), PRINTABLE),
).filter(lambda name: "=" not in name)
IN_ENVIRONMENT = st.one_of(
    ANY_TEXT, st.builds(as_json, ANY_JSON), st.sampled_from(["[" * 9000, "9" * 9000, '{"a":' * 9000])
).filter(lambda text: "\0" not in text)


@tries(30)
@given(content=files_of(TOMLS))
def test_any_configuration_file(tmp_path_factory: Any, content: bytes) -> None:
    file: Path = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(content)
    with in_time():
        usable(file)


@tries(30)
@given(values=st.dictionaries(NAMES, IN_ENVIRONMENT, min_size=1, max_size=2))
def test_any_environment(values: dict[str, str]) -> None:
    as_bytes = {name: value.encode("utf-8", "surrogatepass") for name, value in values.items()}
    environment = {name: value.decode("utf-8", "surrogateescape") for name, value in as_bytes.items()}
    with unittest.mock.patch.dict(os.environ, environment), in_time():
        usable(None)


@tries(20)
@given(
    overrides=st.dictionaries(
        st.sampled_from([*SECTIONS]), st.dictionaries(st.sampled_from([key for _, key in KEYS]), ANY_JSON, max_size=2)
    )
)
def test_any_value_on_the_command_line(overrides: dict[str, Any]) -> None:
    with in_time():
        usable(None, overrides)


def usable(file: Path | None, overrides: dict[str, Any] | None = None) -> None:
    """Loads the settings; what is loaded can be used, and what cannot is refused in one line."""
    try:
        loaded = load_settings(file, overrides)
    except ConfigError as error:
        assert error.message
        assert len(error.message) < 2000
    else:
        assert flaw(loaded.model_dump_json()) is None
