"""Fixtures that every kind of test may use."""

from pathlib import Path

import pytest

from tests.tiny_policy import build_tiny_policy


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Qwen3-shaped policy, built once per run."""
    return build_tiny_policy(tmp_path_factory.mktemp("tiny-policy"))
