"""The scorer of verifiers, for tasks of the source `verifiers:NAME`."""

import asyncio
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]
from verifiers.v1.utils.loaders import (  # pyright: ignore[reportMissingImports]
    load_taskset,
    taskset_config_type,
)

from workers.rewards.thinking import said


def verifiers_tasks(completion: str, record: Mapping[str, Any]) -> float:
    """The weighted sum of the task's own rewards for an answer to its prompt.

    Raises:
        verifiers.v1.TaskError: A reward of the task failed.
    """
    taskset = _taskset(json.dumps(record["config"], sort_keys=True))
    kind = taskset.task_type()
    task = kind(kind.data_type().model_validate(record["task"]), taskset.config.task)
    trace = vf.Trace(
        task=vf.TraceTask(type=kind.__name__, data=task.data),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        nodes=[vf.MessageNode(message=vf.AssistantMessage(content=said(completion)), sampled=True)],
        is_completed=True,
        ok=True,
    )
    asyncio.run(task.score(trace))
    return trace.reward


@cache
def _taskset(config: str) -> "vf.Taskset[Any, Any]":
    values = json.loads(config)
    return load_taskset(taskset_config_type(values["id"]).model_validate(values))
