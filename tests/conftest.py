"""Fixtures that every kind of test may use."""

import os
from pathlib import Path

import pytest

from tests.tiny_policy import build_tiny_policy

# Children that tests start run this checkout's code, whatever is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Qwen3-shaped policy, built once per run."""
    return build_tiny_policy(tmp_path_factory.mktemp("tiny-policy"))
