"""Where the values of settings come from, so that somebody who wonders about one knows what to change."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reheatd.options import Options, TrainingOptions


@dataclass(frozen=True)
class Origin:
    """Where a value comes from."""

    kind: Literal["default", "file", "environment", "command line", "preset", "start"]
    """With `start`, the daemon found the value when it started."""
    name: str = ""
    """The file, the variable, the preset, or what the daemon found the value by; else empty."""


DEFAULT = Origin("default")


def origins_of(
    *,
    file: Path,
    in_file: Mapping[str, Any],
    in_environment: Mapping[str, Any],
    variables: Collection[str],
    prefix: str,
    on_command_line: Mapping[str, Any],
) -> dict[str, Origin]:
    """The origins of values that a source gave, by the dotted names of the settings; later sources win.

    Args:
        in_file, in_environment, on_command_line: The nested values of each source.
        variables: The names of the environment's variables.
        prefix: What the names of ours begin with.
    """
    return {
        **{name: Origin("file", str(file)) for name in _names(in_file)},
        **{name: Origin("environment", _variable(name, variables, prefix)) for name in _names(in_environment)},
        **{name: Origin("command line") for name in _names(on_command_line)},
    }


def preset_origins(table: str, options: Options, given: Collection[str]) -> dict[str, Origin]:
    """The origins of the values that the preset of a table set, apart from those that a source gave."""
    if not isinstance(options, TrainingOptions) or options.preset is None:
        return {}
    origin = Origin("preset", f"{table}.preset = {options.preset}")
    names = {key: f"{table}.{key}" for key in options.presets[options.preset]}
    is_set = options.model_fields_set
    return {name: origin for key, name in names.items() if key in is_set and name not in given}


def _names(values: Mapping[str, Any]) -> list[str]:
    """The dotted names of the settings in nested values; a table's values are one level below it."""
    names: list[str] = []
    for name, value in values.items():
        names += [f"{name}.{key}" for key in value] if isinstance(value, Mapping) else [name]
    return names


def _variable(name: str, variables: Collection[str], prefix: str) -> str:
    """The variable that gave a setting: its own, one for a part of its value, or that of its table."""
    own = (prefix + name.replace(".", "__")).upper()
    found = sorted(variable.upper() for variable in variables)
    parts = [variable for variable in found if variable == own or variable.startswith(f"{own}__")]
    return ", ".join(parts) or own.partition("__")[0]
