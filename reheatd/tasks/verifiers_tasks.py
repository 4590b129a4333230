"""The source `verifiers:NAME`: the tasks of a single-turn taskset of the package verifiers, which scores them."""

from collections.abc import Iterator
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
        BadInputError: The taskset does not exist, or its tasks need tools or a container, so that one answer to a
            prompt does not solve them.
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
        raise BadInputError(
            f"the tasks of {name} need tools or a container; only tasks that one answer solves can be trained on",
            param="task.path",
        )
    for task in islice(taskset, limit if taskset.bounded or limit is not None else MOST):
        data = task.data
        prompt = data.prompt
        if not isinstance(prompt, str):
            prompt = [message.model_dump(include={"role", "content"}) for message in prompt or ()]
        elif data.system_prompt is not None:
            prompt = [{"role": "user", "content": prompt}]
        if data.system_prompt is not None and isinstance(prompt, list):
            prompt = [{"role": "system", "content": data.system_prompt}, *prompt]
        yield {"prompt": prompt, "answer": "", "config": config, "task": data.model_dump(mode="json")}
