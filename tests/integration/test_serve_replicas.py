"""`reheatd serve` with two real engines: one version on both, through a swap and through the death of one."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from reheatd.adapters.store import AdapterStore
from reheatd.database import connect
from tests.daemon import Daemon, running
from tests.integration.serving import trainer_proof
from tests.random_adapter import random_adapter
from tests.waiting import HANGS_S, wait_until


@pytest.fixture(scope="module")
def folder(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two proven versions, the first of them promoted."""
    folder = tmp_path_factory.mktemp("replicas")
    with contextlib.closing(connect(folder / "data" / "reheatd.sqlite3")) as db:
        store = AdapterStore(folder / "data" / "adapters", db)
        for seed in (1, 2):
            adapter = random_adapter(folder / f"adapter-{seed}", tiny_policy, seed=seed)
            proof = trainer_proof(tiny_policy, adapter)
            made = store.publish(adapter, parent=0, base_model="tiny", base_digest="", kind="imported", proof=proof)
            asyncio.run(made)
        store.promote(1)
    return folder


class Clients:
    """Ask without pause, each another question; counts answers by (status, engine, version)."""

    def __init__(self, daemon: Daemon) -> None:
        self.answers: Counter[tuple[int, str, str]] = Counter()
        self._daemon = daemon
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(4)]

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._daemon.url, timeout=HANGS_S, trust_env=False) as http:
            asked = 0
            while not self._stop.is_set():
                question = [{"role": "user", "content": f"{number} {asked}"}]
                answer = http.post("/v1/chat/completions", json={"messages": question, "max_tokens": 8})
                headers = answer.headers
                engine, version = headers.get("x-reheatd-engine", ""), headers.get("x-reheatd-version", "")
                self.answers[answer.status_code, engine, version] += 1
                asked += 1

    def until(self, *kinds: tuple[int, str, str]) -> Counter[tuple[int, str, str]]:
        """What was answered from now until there has been one answer of each kind."""
        before = self.answers.copy()
        wait_until(lambda: all(self.answers[kind] > before[kind] for kind in kinds))
        return self.answers - before

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def engines(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {engine["name"]: engine for engine in daemon.reheatd("status")["engines"]}


def listened_on(process: psutil.Process) -> set[int]:
    return {at.laddr.port for at in process.net_connections() if at.status == psutil.CONN_LISTEN}


def test_one_version_on_both_engines_through_a_swap_and_a_death(folder: Path, tiny_policy: Path) -> None:
    with running(folder, tiny_policy, engine={"replicas": 2}, workers={"count": 0}) as daemon:
        clients = Clients(daemon)
        with clients.asking():
            clients.until((200, "engine-1", "policy-v1"), (200, "engine-2", "policy-v1"))
            assert daemon.reheatd("adapters", "promote", "2")["version"] == 2
            clients.until((200, "engine-1", "policy-v2"), (200, "engine-2", "policy-v2"))
            assert {status for status, _, _ in clients.answers} == {200}
            (key,) = {p.environ()["VLLM_API_KEY"] for p in daemon.tree() if "reheatd.engine.server" in p.cmdline()[3:4]}
            for engine in engines(daemon).values():
                authorization = {"authorization": f"Bearer {key}"}
                models = httpx.get(f"{engine['url']}/v1/models", headers=authorization, trust_env=False)
                held = models.json()["data"]
                assert [model["id"].rpartition("-")[0] or model["id"] for model in held] == ["base", "policy-v2"]

            port = engines(daemon)["engine-2"]["url"].rpartition(":")[2]
            (victim,) = [
                p for p in daemon.tree() if "reheatd.engine.server" in p.cmdline()[3:4] and port in p.cmdline()
            ]
            # If its core process held the port too, connections would be accepted after the server's death.
            (core,) = victim.children()
            assert int(port) in listened_on(victim)
            assert int(port) not in listened_on(core)
            victim.kill()
            wait_until(lambda: "engine-2 gets no more requests; 1 of 2 engines still serve" in daemon.log)
            status = engines(daemon)
            assert (status["engine-1"]["ok"], status["engine-2"]["ok"]) == (True, False)
            # Those it was working on when it died are lost; everybody else is answered by the other.
            lost = sum(count for (status, _, _), count in clients.answers.items() if status != 200)
            assert lost <= 4
            clients.until((200, "engine-1", "policy-v2"))
            assert sum(count for (status, _, _), count in clients.answers.items() if status != 200) == lost

        wait_until(lambda: all(engine["ok"] for engine in engines(daemon).values()))
        again = Clients(daemon)
        with again.asking():
            again.until((200, "engine-1", "policy-v2"), (200, "engine-2", "policy-v2"))
        assert set(again.answers) == {(200, "engine-1", "policy-v2"), (200, "engine-2", "policy-v2")}
        tree = daemon.tree()
        daemon.close()
        assert daemon.process.returncode == 0
        assert not [process for process in tree if process.is_running()]
