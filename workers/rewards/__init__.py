"""Verifiable rewards: functions f(completion, answer) -> reward in [0, 1]."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from reheatd.errors import BadInputError

Reward = Callable[[str, str], float]

BUILTIN = {"numeric": "workers.rewards.numeric:numeric", "exact": "workers.rewards.exact:exact"}


def load_reward(name: str) -> Reward:
    """The reward called `numeric`, `exact` or `module:function`; modules are also looked for in the working directory.

    Raises:
        BadInputError: The name has the wrong form, or the module or function cannot be loaded.
    """
    module_name, separator, function_name = BUILTIN.get(name, name).partition(":")
    if not separator or not module_name or not function_name:
        raise BadInputError(
            f"reward {name!r} is not known; use {', '.join(BUILTIN)} or module:function", param="task.reward"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise BadInputError(
            f"reward {name!r}: importing {module_name} failed: {type(error).__name__}: {error}", param="task.reward"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise BadInputError(f"reward {name!r}: {module_name} has no function {function_name}", param="task.reward")
    return cast(Reward, function)
