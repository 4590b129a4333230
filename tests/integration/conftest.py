"""The real engine, started once for all integration tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_process import running_engine

__all__ = ["engine", "running_engine"]


@pytest.fixture(scope="session")
def engine(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of real vLLM serving the tiny policy with adapter slots; shared by all integration tests."""
    with running_engine(tiny_policy, tmp_path_factory.mktemp("engine") / "engine.log") as url:
        yield url
