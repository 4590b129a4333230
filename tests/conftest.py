"""Fixtures that every kind of test may use."""

import os
from pathlib import Path

import pytest

# The policies of tests are tiny: a second thread would only wait for the first, and take a core from another test. The
# engine sets its own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Children that tests start run this checkout's code, whatever is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Qwen3-shaped policy, built once per process."""
    from tests.tiny_policy import build_tiny_policy  # which imports torch, and torch reads OMP_NUM_THREADS

    return build_tiny_policy(tmp_path_factory.mktemp("tiny-policy"))
