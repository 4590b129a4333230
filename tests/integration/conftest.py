"""The real engine, started once for all integration tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reheatd.entropy.live import tap_socket
from tests.engine_process import running_engine
from tests.tap_ear import TapEar
from tests.tiny_policy import VOCABULARY

TOOLS = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
TERSE_JSON = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
"""Random weights would choose white space for ever where a grammar lets them."""

__all__ = ["engine", "running_engine"]


@dataclass
class TappedEngine:
    """An engine with an entropy tap, and what the tap has said so far."""

    url: str
    ear: TapEar


@contextmanager
def tapped_engine(model: Path, log: Path, **options: Any) -> Iterator[TappedEngine]:
    with tap_socket("127.0.0.1:0") as listener:
        address = "{}:{}".format(*listener.getsockname())
        # The engine can be paused, and its sequences preempted, over HTTP.
        env = {"VLLM_SERVER_DEV_MODE": "1"}
        with running_engine(model, log, tap_address=address, env=env, max_logprobs=VOCABULARY, **options) as url:
            yield TappedEngine(url, TapEar(listener))


@pytest.fixture(scope="session")
def tapped(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TappedEngine]:
    """Real vLLM serving the tiny policy with adapter slots and a tap; shared by all integration tests."""
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with tapped_engine(tiny_policy, log, extra_args=[*TOOLS, *TERSE_JSON]) as engine:
        yield engine


@pytest.fixture(scope="session")
def engine(tapped: TappedEngine) -> str:
    """Its URL."""
    return tapped.url
