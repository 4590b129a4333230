"""What the port says while the server starts."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from reheatd.config import Settings
from reheatd.errors import BadInputError
from reheatd.process.ports import reserve_port
from reheatd.serve import serve
from tests.waiting import HANGS_S


def test_the_port_answers_from_the_start_and_closes_if_the_start_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloading, give_up = asyncio.Event(), threading.Event()
    port = reserve_port()
    settings = Settings.model_validate(
        {"data_dir": tmp_path, "server": {"port": port}, "engine": {"url": "http://127.0.0.1:9"}}
    )

    async def body() -> None:
        loop = asyncio.get_running_loop()

        def find_models(settings: Settings, report: Callable[[str], None]) -> Any:
            report("downloading owner/model, 1.0 of 8.0 GB")
            loop.call_soon_threadsafe(downloading.set)
            give_up.wait(HANGS_S)
            raise BadInputError("the network is gone")

        monkeypatch.setattr("reheatd.serve.find_models", find_models)
        serving = asyncio.create_task(serve(settings))
        await downloading.wait()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            health = await http.get("/health")
            assert (health.status_code, health.json()) == (
                503,
                {"status": "starting: downloading owner/model, 1.0 of 8.0 GB"},
            )
            answer = await http.post("/v1/chat/completions", json={})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
            assert "downloading owner/model, 1.0 of 8.0 GB" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"] == "5"
        give_up.set()
        with pytest.raises(BadInputError, match="the network is gone"):
            await serving
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/health")

    asyncio.run(body())
