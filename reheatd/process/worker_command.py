"""The command that starts a Celery worker, whose code is in the `workers` package."""

import json
import os

from reheatd.config_tables import WorkersSection
from reheatd.config_tracing import HEADERS_ENV, TracingSection
from reheatd.process.children import SHARED_CORES_ENV, python_module
from reheatd.process.gpus import VISIBLE_ENV
from reheatd.process.supervisor import Command

REWARD_PATHS_ENV = "REHEATD_REWARD_PATHS"
REWARD_VARIABLES_ENV = "REHEATD_REWARD_VARIABLES"
"""JSON lists of what rewards may read, and of the variables that they get, besides what all rewards have."""


def worker_command(
    broker_url: str, workers: WorkersSection, tracing: TracingSection, *, index: int, gpu: str | None = None
) -> Command:
    """The command of a worker that runs one job at a time, each in a fresh process, which frees the job's memory.

    Args:
        gpu: The GPU that the worker gets, by its name in CUDA_VISIBLE_DEVICES; None for all there are.
    """
    argv = python_module(
        "workers",
        "--pool", "prefork",
        "--concurrency", "1",
        "--max-tasks-per-child", "1",
        "--hostname", f"reheatd-{index}@%h",
        "--loglevel", "INFO",
    )  # fmt: skip
    env = {"REHEATD_BROKER_URL": broker_url, "TOKENIZERS_PARALLELISM": "false", **SHARED_CORES_ENV}
    env["REHEATD_WORKER_DTYPE"] = workers.dtype
    env["REHEATD_WORKER_GRADIENT_CHECKPOINTING"] = str(workers.gradient_checkpointing).lower()
    env[REWARD_PATHS_ENV] = json.dumps(workers.reward_paths)
    env[REWARD_VARIABLES_ENV] = json.dumps(workers.reward_variables)
    if tracing.is_on():
        env |= tracing.variables() | {name: os.environ[name] for name in HEADERS_ENV if name in os.environ}
    if workers.threads is not None:
        env["OMP_NUM_THREADS"] = str(workers.threads)
    if gpu is not None:
        env[VISIBLE_ENV] = gpu
    return Command(f"worker-{index}", argv, env)
