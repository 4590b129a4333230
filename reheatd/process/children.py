"""What child processes that run our own modules have in common: command line and environment."""

import sys

SHARED_CORES_ENV = {"GOMP_SPINCOUNT": "5000"}
"""Of engine and workers on a CPU. OpenMP threads that spin long while they wait take the cores from whoever shares
them: a worker's steps took twice as long beside a busy engine. Never spinning costs the engine alone a fifth of its
throughput; a short spin costs nothing."""


def python_module(module: str, *arguments: str) -> list[str]:
    """Command line that runs one of our modules, from whatever directory.

    Without `-P`, Python looks into the working directory before anything else, and takes a user's folder `workers` or
    `cli` there for ours.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
