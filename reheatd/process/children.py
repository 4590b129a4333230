"""Command line and environment of the daemon's child processes."""

import os
import sys
from collections.abc import Mapping

from reheatd.config_tracing import HEADERS_ENV

SHARED_CORES_ENV = {"GOMP_SPINCOUNT": "5000"}
"""Environment of engine and workers on a CPU. OpenMP threads that spin long while they wait take the cores from the
processes that share them: a worker's steps took twice as long beside a busy engine. An engine whose threads never spin
loses a fifth of its throughput; a short spin costs nothing."""

SECRET_VARIABLES = frozenset(("REHEATD_API_KEY", "REHEATD_BROKER", "REHEATD_BROKER__URL", "VLLM_API_KEY", *HEADERS_ENV))
"""Variables of the daemon's environment that hold secrets. A child gets those that it needs from its own command."""


def child_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: the daemon's own without its secrets, and on top what the child's command says."""
    inherited = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    return {**inherited, **own}


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs one of reheatd's modules, whatever the working directory is.

    Without `-P`, Python would look into the working directory first, and take a user's folder `workers` or `cli` there
    for reheatd's.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
