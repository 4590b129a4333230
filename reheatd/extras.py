"""Checks that parts of the distribution can be imported, without importing anything heavy."""

import importlib.util
from pathlib import Path
from typing import Literal

from reheatd.errors import ConfigError, MissingExtraError

HOME = Path(__file__).resolve().parents[1]
"""The folder that holds `reheatd`, and `workers` and `cli` beside it."""


def imported_instead(package: str) -> str | None:
    """Where `import` finds another `workers` or `cli` than ours; None if it finds ours."""
    spec = importlib.util.find_spec(package)
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    if any(place.resolve() == HOME / package for place in places[:1]):
        return None
    return str(places[0] if places else (spec and spec.origin) or "nowhere")


def require_own(package: str) -> None:
    """Checks that `import` finds the `workers` or `cli` that lies beside `reheatd`.

    Raises:
        ConfigError: Another folder of that name comes before ours on the import path.
    """
    other = imported_instead(package)
    if other is not None:
        raise ConfigError(
            f"`import {package}` finds {other} instead of {HOME / package}; rename that folder, "
            "or take its parent folder off PYTHONPATH"
        )


def require_worker_extra() -> None:
    """Checks that a worker can run here.

    Raises:
        MissingExtraError: A package that a worker needs is not installed.
        ConfigError: Another folder named `workers` comes before ours on the import path.
    """
    require_own("workers")
    missing = missing_modules("torch", "transformers", "peft")
    if missing:
        raise MissingExtraError(
            f"a worker needs {missing}: pip install 'reheatd[worker]', or run workers elsewhere (--workers 0)"
        )


def require_engine_extra(device: Literal["cpu", "cuda"]) -> None:
    """Checks that an engine can run here.

    Raises:
        MissingExtraError: A package that the engine needs is not installed.
    """
    missing = missing_modules("vllm")
    if missing:
        raise MissingExtraError(
            f"the engine needs {missing}: pip install 'reheatd[engine-{device}]' (`make setup` in a checkout), "
            "or name a running one in engine.url"
        )


def require_diagnose_extra(module: str, purpose: str) -> None:
    """Checks that a package can be imported which only `reheatd diagnose` needs.

    Args:
        purpose: What it is needed for, for the message.

    Raises:
        MissingExtraError: It is not installed.
    """
    if missing_modules(module):
        raise MissingExtraError(f"{purpose} needs {module}: pip install 'reheatd[diagnose]'")


def otel_is_missing() -> str:
    """What is missing here of that which traces need; empty if nothing is."""
    # To look for a module below a missing package would be an error.
    return missing_modules("opentelemetry") or missing_modules("opentelemetry.sdk", "opentelemetry.exporter")


def missing_modules(*modules: str) -> str:
    """Those of the modules that are not installed, separated by commas; empty if all are."""
    return ", ".join(name for name in modules if importlib.util.find_spec(name) is None)
