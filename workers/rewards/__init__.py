"""Verifiable rewards: functions f(completion, answer) -> reward in [0, 1]; see `workers.rewards.calling`.

A reward has a name in the entry-point group `reheatd.rewards`, or is named as `module:function`.
"""

import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from reheatd.errors import BadInputError
from workers.rewards.calling import Reward
from workers.rewards.reach import hint

GROUP = "reheatd.rewards"
OURS = ("reheatd", "workers", "cli")


def installed_rewards() -> dict[str, EntryPoint]:
    """The rewards that are installed, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def find_reward(name: str) -> EntryPoint:
    """Where the reward installed under `name`, or `module:function`, is to be imported from, without importing it.

    Modules are searched in the working directory last.

    Raises:
        BadInputError: The name has the wrong form, or no reward has it.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    installed = installed_rewards()
    entry = EntryPoint(name, name, GROUP) if ":" in name else installed.get(name)
    if entry is None or not entry.pattern.match(entry.value):
        raise BadInputError(
            f"reward {name!r} is not known; use {', '.join(sorted(installed))} or module:function", param="task.reward"
        )
    return entry


def load_reward(name: str) -> Reward:
    """The reward that `find_reward` finds.

    Raises:
        BadInputError: The name has the wrong form, or the module or function cannot be loaded.
    """
    entry = find_reward(name)
    try:
        function = entry.load()
    except BadInputError as error:
        raise BadInputError(f"reward {name!r}: {error.message}", param="task.reward") from error
    except AttributeError as error:
        raise BadInputError(
            f"reward {name!r}: {entry.module} has no function {entry.attr}", param="task.reward"
        ) from error
    except Exception as error:  # a user's module may raise anything while it is imported
        package = entry.module.partition(".")[0]
        advice = f"; {package} is a package of reheatd's, call yours something else" if package in OURS else hint(error)
        raise BadInputError(
            f"reward {name!r}: importing {entry.module} failed: {type(error).__name__}: {error}{advice}",
            param="task.reward",
        ) from error
    if not callable(function):
        raise BadInputError(f"reward {name!r}: {entry.attr} of {entry.module} is not a function", param="task.reward")
    return cast(Reward, function)
