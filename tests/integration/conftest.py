"""The real engine, started once for all integration tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import running_engine

TOOLS = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
TERSE_JSON = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
"""Random weights would choose white space for ever where a grammar lets them."""

__all__ = ["engine", "running_engine"]


@pytest.fixture(scope="session")
def engine(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of real vLLM serving the tiny policy with adapter slots; shared by all integration tests."""
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with running_engine(tiny_policy, log, extra_args=[*TOOLS, *TERSE_JSON]) as url:
        yield url
