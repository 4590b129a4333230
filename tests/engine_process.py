"""Real vLLM as a child process, for tests and benchmarks."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from reheatd.config import Settings
from reheatd.engine.client import EngineClient
from reheatd.engine.launch import Device, engine_command
from reheatd.engine.sequence_length import with_length
from reheatd.plan.gpu_plan import plan_gpus
from reheatd.process.ports import reserve_port
from reheatd.tap.seal import KEY_ENV
from tests.tap_ear import KEY
from tests.waiting import HANGS_S

SERVER = "reheatd.engine.server"
STOCK_SERVER = "from vllm.entrypoints.launchers.api_server.entry import main; main()"


@contextmanager
def running_engine(
    model: Path,
    log: Path,
    *,
    device: Device = "cpu",
    stock: bool = False,
    server: str = SERVER,
    tap_address: str | None = None,
    env: dict[str, str] | None = None,
    **engine: Any,
) -> Iterator[str]:
    """Real vLLM as the daemon starts it; yields its URL.

    Args:
        log: File for its output.
        device: Where it computes; on a GPU, it gets what the daemon would give it.
        stock: Leave our plugin out and the rest as it is. Base requests beside an adapter get wrong answers then.
        server: The module that is run.
        tap_address: Where an entropy tap sends to; None: it has no tap.
        env: Added to its environment.
        engine: Settings of the engine.
    """
    url, process = start_engine(
        model, log, device=device, stock=stock, server=server, tap_address=tap_address, env=env, **engine
    )
    try:
        asyncio.run(_wait_ready(url, process, log))
        yield url
    finally:
        stop_engine(process, 60)


def start_engine(
    model: Path,
    log: Path,
    *,
    device: Device = "cpu",
    stock: bool = False,
    server: str = SERVER,
    tap_address: str | None = None,
    port: int | None = None,
    env: dict[str, str] | None = None,
    **engine: Any,
) -> "tuple[str, subprocess.Popen[bytes]]":
    """As `running_engine`, but the caller waits until it is ready and ends it; `port`: default a free one."""
    settings = Settings.model_validate({"engine": {"kv_cache_bytes": 64 << 20, **engine}})
    port = port or reserve_port()
    gpus = plan_gpus(settings, model) if device == "cuda" else None
    settings = with_length(settings, model, device, gpus)
    own = None if gpus is None else gpus.engines[0]
    command = engine_command(settings, model, port, device, tap_address=tap_address, gpus=own)
    argv, env = command.argv, {**os.environ, **command.env, KEY_ENV: KEY, **(env or {})}
    argv[argv.index(SERVER)] = server
    if stock:
        argv = [argv[0], "-c", STOCK_SERVER, *argv[argv.index("--model") :]]
        env["VLLM_PLUGINS"] = ""
    with log.open("ab") as output:
        return f"http://127.0.0.1:{port}", subprocess.Popen(argv, env=env, stdout=output, stderr=subprocess.STDOUT)


def stop_engine(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """Ends an engine, by force after `grace_s` seconds, and all of its processes with it."""
    if process.poll() is not None:
        return
    tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in tree:
        with suppress(psutil.NoSuchProcess):
            child.kill()


async def _wait_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    async with EngineClient(url) as client:
        ready = asyncio.create_task(client.wait_ready(HANGS_S))
        died = asyncio.create_task(_exit_of(process))
        try:
            await asyncio.wait({ready, died}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise RuntimeError(f"the engine exited with {process.returncode}:\n{log.read_text()[-4000:]}")
            await ready
        finally:
            ready.cancel()
            died.cancel()


async def _exit_of(process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        await asyncio.sleep(0.25)
