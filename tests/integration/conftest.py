"""The real engine, started once for all integration tests."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reheatd.config import Settings
from reheatd.engine.client import EngineClient
from reheatd.engine.launch import engine_command


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running_engine(model: Path, log: Path, **engine: Any) -> Iterator[str]:
    """Real vLLM on the CPU as the daemon starts it; yields its URL."""
    settings = Settings.model_validate({"engine": {"kv_cache_bytes": 64 << 20, **engine}})
    port = free_port()
    command = engine_command(settings, model, port, "cpu")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.argv, env={**os.environ, **command.env}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        asyncio.run(_wait_ready(url, process, log))
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


async def _wait_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    async with EngineClient(url) as client:
        ready = asyncio.create_task(client.wait_ready(240))
        while not ready.done():
            await asyncio.wait({ready}, timeout=1)
            if process.poll() is not None:
                ready.cancel()
                raise RuntimeError(f"the engine exited with {process.returncode}:\n{log.read_text()[-4000:]}")
        await ready


@pytest.fixture(scope="session")
def engine(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of real vLLM serving the tiny policy with adapter slots; shared by all integration tests."""
    with running_engine(tiny_policy, tmp_path_factory.mktemp("engine") / "engine.log") as url:
        yield url
