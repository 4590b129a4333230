"""The trackers that are installed: the entry points of the group `reheatd.trackers`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from reheatd.errors import ConfigError, MissingExtraError
from reheatd.extras import missing_modules
from reheatd.trackers.tracker import Tracker, TrackerSetup
from reheatd.validation import suggestion

GROUP = "reheatd.trackers"
NEEDED = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb", "PIL"),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "trackio": ("trackio",),
}
"""The modules that our own trackers need; each tracker has an extra of its name."""


@dataclass(frozen=True)
class Unusable:
    """A tracker of the configuration that cannot be used."""

    problem: str
    cure: str
    is_unknown: bool
    """Whether no tracker has this name; otherwise a package is missing."""


def installed_trackers() -> dict[str, EntryPoint]:
    """The trackers that are installed, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def unusable_trackers(names: Iterable[str]) -> Iterator[Unusable]:
    """Those of the trackers that cannot be used, which is found out without importing them."""
    installed = installed_trackers()
    for name in names:
        if name not in installed:
            cure = suggestion(name, installed, f"use {', '.join(sorted(installed))}")
            yield Unusable(f"trackers.names = {name!r}: no tracker has this name", cure, is_unknown=True)
        elif missing := missing_modules(*NEEDED.get(name, (installed[name].module.partition(".")[0],))):
            problem = f"trackers.names has {name}, which needs {missing}"
            yield Unusable(problem, f"pip install {_distribution(name, installed[name])}", is_unknown=False)


def require_trackers(names: Iterable[str]) -> None:
    """Checks that trackers can be used.

    Raises:
        ConfigError: No tracker has such a name.
        MissingExtraError: A package that a tracker needs is not installed.
    """
    for found in unusable_trackers(names):
        error = ConfigError if found.is_unknown else MissingExtraError
        raise error(f"{found.problem}; {found.cure}", param="trackers.names")


def load_tracker(name: str, setup: TrackerSetup) -> Tracker:
    """Imports a tracker's package and sets the tracker up; whatever that raises, this raises."""
    make = cast(Callable[[TrackerSetup], Tracker], installed_trackers()[name].load())
    return make(setup)


def _distribution(name: str, entry: EntryPoint) -> str:
    """What is to be installed for a tracker."""
    if name in NEEDED:
        return f"'reheatd[{name}]'"
    return entry.dist.name if entry.dist is not None else name
