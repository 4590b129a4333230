"""Command line and environment of child processes that run reheatd's own modules."""

import sys

SHARED_CORES_ENV = {"GOMP_SPINCOUNT": "5000"}
"""Environment of engine and workers on a CPU. OpenMP threads that spin long while they wait take the cores from the
processes that share them: a worker's steps took twice as long beside a busy engine. An engine whose threads never spin
loses a fifth of its throughput; a short spin costs nothing."""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs one of reheatd's modules, whatever the working directory is.

    Without `-P`, Python would look into the working directory first, and take a user's folder `workers` or `cli` there
    for reheatd's.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
