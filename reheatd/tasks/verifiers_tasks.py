"""The source `verifiers:NAME`: the tasks of a single-turn taskset of the package verifiers, which scores them."""

import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from reheatd.errors import BadInputError, MissingExtraError

MOST = 1000
"""Tasks that are taken from a taskset that never ends, unless `task.arguments` has a `limit`."""


def tasks(name: str, *, limit: int | None = None, **options: Any) -> Iterator[dict[str, Any]]:
    """The first `limit` tasks of a taskset; default: all, or 1000 of one that never ends.

    Args:
        options: Fields of the taskset's configuration.

    Raises:
        BadInputError: The taskset does not exist, or its tasks need tools, a container or an agent's runtime, so
            that one answer to a prompt does not solve them.
        MissingExtraError: verifiers is not installed.
    """
    try:
        from verifiers.v1.utils.loaders import (  # pyright: ignore[reportMissingImports]
            load_taskset,
            taskset_config_type,
        )
    except ImportError as error:
        raise MissingExtraError(f"verifiers:{name} needs {error.name}: pip install 'reheatd[verifiers]'") from error
    config = {"id": name, **options}
    taskset = load_taskset(taskset_config_type(name).model_validate(config))
    kind = taskset.task_type()
    if kind.NEEDS_CONTAINER or taskset.toolsets(taskset.config) or kind.toolsets(taskset.config.task):
        raise _too_much(name)
    for task in islice(taskset, limit if taskset.bounded or limit is not None else MOST):
        if any(_needs_runtime(reward) for reward in task.hooks("reward")):
            raise _too_much(name)
        data = task.data
        prompt = data.prompt
        if not isinstance(prompt, str):
            prompt = [message.model_dump(include={"role", "content"}) for message in prompt or ()]
        elif data.system_prompt is not None:
            prompt = [{"role": "user", "content": prompt}]
        if data.system_prompt is not None and isinstance(prompt, list):
            prompt = [{"role": "system", "content": data.system_prompt}, *prompt]
        yield {"prompt": prompt, "answer": "", "config": config, "task": data.model_dump(mode="json")}


def _needs_runtime(reward: Callable[..., Any]) -> bool:
    runtime = inspect.signature(reward).parameters.get("runtime")
    return runtime is not None and runtime.default is runtime.empty


def _too_much(name: str) -> BadInputError:
    return BadInputError(
        f"the tasks of {name} need tools, a container or an agent's runtime; only tasks that one answer solves can be "
        "trained on",
        param="task.path",
    )
