"""The sources of settings besides the command line: a TOML file and the environment, with errors of one line."""

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from reheatd.errors import ConfigError
from reheatd.text import decode, flaw, shown
from reheatd.validation import SECRET_TABLES


def read_toml(file: Path) -> dict[str, Any]:
    """The values in a TOML file.

    Raises:
        ConfigError: The file cannot be read, is not UTF-8 or not TOML.
    """
    what = f"configuration file {file}"
    try:
        text = decode(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{what} {error}") from error
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"{what} is not valid TOML: its values are nested too deeply") from error
    except ValueError as error:  # besides TOML's own errors, a number of more digits than Python reads
        raise ConfigError(f"{what} is not valid TOML: {error}") from error


class Environment(EnvSettingsSource):
    """The environment. Values of tables and lists are JSON there."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except RecursionError as error:
            raise self._not_json(field_name, value, "it is nested too deeply") from error
        except ValueError as error:
            at = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise self._not_json(field_name, value, at) from error

    def _not_json(self, field_name: str, value: Any, reason: str) -> ValueError:
        ending = field_name.lower()
        names = (name for name, each in self.env_vars.items() if each == value and name.lower().endswith(ending))
        name = next(names, field_name).upper()
        # The value may hold a password, as that of a broker's URL.
        return ValueError(f'{name} is not JSON ({reason}); write a list as ["a", "b"]')


def refuse_unusable_text(values: Any, name: str = "") -> None:
    """Checks all texts and paths in nested values.

    Raises:
        ConfigError: A text holds a null character or is no Unicode, so that files or other processes cannot have it.
    """
    if isinstance(values, dict):
        for key, value in values.items():
            refuse_unusable_text(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list | tuple):
        for value in values:
            refuse_unusable_text(value, name)
    elif isinstance(values, str | Path) and (problem := flaw(str(values))):
        value = "" if name.partition(".")[0] in SECRET_TABLES else f" = {shown(str(values))}"
        raise ConfigError(f"{name}{value} {problem}; write it in plain text", param=name)
