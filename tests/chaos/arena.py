"""A daemon that can be ended and started again: always on the same data folder, port and configuration."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
from redis import Redis
from redis.exceptions import RedisError

from reheatd.adapters.lineage import ProofItem
from reheatd.adapters.store import AdapterStore
from reheatd.database import connect
from reheatd.jobs.keys import EVENTS_FIELD, events_key
from reheatd.process.ports import reserve_port
from tests.chaos.evidence import FINAL, Archive
from tests.chaos.load import eventually
from tests.chaos.strike import PointMissed, hold, is_alive
from tests.daemon import Daemon, merged
from tests.waiting import HANGS_S

API = "/reheatd/v1"
TRIES = 5
"""Jobs that are run to hit a point that passes quickly."""
RL: dict[str, Any] = {"kind": "rl"}
COOL: dict[str, Any] = {"kind": "reheat", "tau": 0.9}
"""A cooling: a job of the same code as a reheat that a policy need not have collapsed for."""
TABLES: dict[str, dict[str, Any]] = {
    "policy": {"max_model_len": 768},
    "task": {"reward": "tests.chaos.rewards:letters", "eval_count": 4, "eval_samples": 1, "eval_max_tokens": 8},
    "gate": {"accuracy_tolerance": 1.0, "no_evidence": "pass"},
    "control": {"mode": "observe", "heartbeat_timeout_s": 10.0, "max_attempts": 6},
    "workers": {"threads": 1, "report_rollouts": 2, "rollouts_kept": 0},
    "reheat": {"steps": 8, "refresh_every": 4, "prompts_per_step": 2, "max_tokens": 8},
    "rl": {"steps": 2, "prompts_per_step": 2, "group_size": 4, "max_tokens": 8},
}
"""The smallest jobs that train something."""

Proven = tuple[Path, list[ProofItem]]
"""Folder of an adapter, with its proof."""


class Arena:
    """A data folder with the daemon that runs on it.

    Args:
        folder: Folder of the data folder, the configuration and the log.
        wrapper: Command that the daemon's own command is appended to.
        env: Added to the daemon's environment.
        tables: Tables of the configuration, which are merged into `TABLES`.
    """

    def __init__(
        self,
        folder: Path,
        model: Path,
        *,
        wrapper: Sequence[str] = (),
        env: dict[str, str] | None = None,
        **tables: dict[str, Any],
    ) -> None:
        self.folder = folder
        self.model = model
        self.port = reserve_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tables = merge(TABLES, tables)
        self.archive = Archive(folder / "data")
        self.http = httpx.Client(base_url=self.url, timeout=HANGS_S, trust_env=False)
        self._wrapper = wrapper
        self._env = env
        self._daemon: Daemon | None = None

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None, "the daemon was not started"
        return self._daemon

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.daemon.process.pid)

    def start(self) -> None:
        """Starts the daemon, and waits until it is ready. One that was killed is forgotten."""
        if self._daemon is not None:
            self._daemon.process.wait(HANGS_S)
            self._daemon.http.close()
        tables = merge(self.tables, {"server": {"port": self.port}})
        self._daemon = Daemon(self.folder, merged(self.model, **tables), env=self._env, wrapper=self._wrapper)

    def try_to_start(self) -> "subprocess.CompletedProcess[str]":
        """Runs one more daemon on the same data folder, on another port, until it gives up."""
        command = [*self._wrapper, *self.daemon.command, "--port", "0"]
        environment = {**os.environ, **(self._env or {})}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANGS_S)

    def stop(self) -> None:
        """Ends the daemon with SIGTERM, if it still runs."""
        if self._daemon is not None and self._daemon.process.poll() is None:
            self._daemon.process.terminate()
            self._daemon.process.wait(HANGS_S)

    def restart(self, **tables: dict[str, Any]) -> None:
        """Stops the daemon if it runs and starts it again, with some tables changed for good."""
        self.stop()
        self.tables = merge(self.tables, tables)
        self.start()

    def close(self) -> None:
        self.http.close()
        if self._daemon is not None:
            self.stop()
            self._daemon.http.close()

    # What a user asks the daemon for

    def get(self, path: str) -> dict[str, Any]:
        response = self.http.get(f"{API}{path}")
        assert response.status_code == 200, f"GET {path} answered {response.status_code}: {response.text}"
        return response.json()

    def post(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        return self.http.post(f"{API}{path}", json=body or {})

    def submit(self, request: dict[str, Any], **options: Any) -> str:
        """Submits a job and returns its id."""
        response = self.post("/jobs", request | options)
        assert response.status_code == 202, response.text
        return response.json()["job_id"]

    def promote(self, version: int) -> httpx.Response:
        return self.post(f"/adapters/{version}/promote")

    def wait_over(self, job_id: str, longest_s: float = 180.0) -> dict[str, Any]:
        """Waits until a job is over, and returns it."""

        def over() -> dict[str, Any] | None:
            job = self.archive.job(job_id)
            return job if job["status"] in FINAL else None

        return eventually(over, f"{job_id} is over, but it is {self.archive.job(job_id)}", longest_s)

    def is_over(self, job_id: str) -> bool:
        return self.archive.job(job_id)["status"] in FINAL

    def hold_during(
        self, request: dict[str, Any], process: Callable[[], psutil.Process | None], at: Callable[[str], bool]
    ) -> tuple[str, psutil.Process]:
        """Submits jobs until `process` could be stopped while `at` held for one.

        Args:
            process: Finds the process; None while it does not exist.
            at: Whether a job is at the wanted point, which may pass quickly.

        Returns:
            That job's id, and the process.
        """
        for _ in range(TRIES):
            job_id = self.submit(request)
            try:
                return job_id, hold(process, partial(at, job_id), partial(self.is_over, job_id))
            except PointMissed:
                continue
        raise AssertionError(f"no process could be stopped in time during any of {TRIES} jobs")

    def is_ready(self) -> bool:
        try:
            return self.http.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def report(self, job_id: str) -> tuple[str, int]:
        """Phase and step of the newest report of a job's worker, from the broker; ("", 0) if there is none."""
        options = dict(
            line.split(" ", 1) for line in (self.data_dir / "broker" / "valkey.conf").read_text().splitlines()
        )
        try:
            with Redis(port=int(options["port"]), password=options["requirepass"], decode_responses=True) as broker:
                newest = cast(list[tuple[str, dict[str, str]]], broker.xrevrange(events_key(job_id), count=1))
        except RedisError:
            return "", 0
        event = json.loads(newest[0][1][EVENTS_FIELD]) if newest else {"phase": "", "step": 0}
        return event["phase"], event["step"]

    # Its processes

    def find(self, *words: str) -> list[psutil.Process]:
        """The living processes below the daemon, guards too, that were started with all of these arguments."""
        return [process for process in self.daemon.tree() if is_alive(process) and set(words) <= set(_command(process))]

    def engine(self) -> list[psutil.Process]:
        """The engine's processes, its API server first."""
        (guard,) = self.find("--grace", "reheatd.engine.server")
        return sorted(filter(is_alive, _children(guard, recursive=True)), key=lambda process: process.create_time())

    def engine_core(self) -> psutil.Process:
        """The engine's process that computes."""
        (core,) = (process for process in self.engine() if "EngineCore" in " ".join(_command(process)))
        return core

    def broker(self) -> psutil.Process:
        (broker,) = (process for process in self.daemon.tree() if _name(process) == "valkey-server")
        return broker

    def workers(self) -> list[psutil.Process]:
        """The Celery workers, without the processes that they run jobs in."""
        guards = self.find("--grace", "workers", "--hostname")
        # A worker gives itself another command line, and its guard adopts the children that outlive it.
        below = [_children(guard) for guard in guards]
        return [min(children, key=lambda child: child.create_time()) for children in below if children]

    def job_process(self, besides: psutil.Process | None = None) -> psutil.Process | None:
        """The process that trains, if it is not `besides`; None while there is none."""
        parents = [child.parent() for child in self.find("workers.rewards.child")]
        return next((found for found in parents if found is not None and is_alive(found) and found != besides), None)

    def seed(self, adapters: Sequence[Proven]) -> None:
        """Publishes adapters as versions 1, 2, ... before the first start, and promotes the first."""
        with closing(connect(self.data_dir / "reheatd.sqlite3")) as db:
            store = AdapterStore(self.data_dir / "adapters", db)
            for adapter, proof in adapters:
                lineage = {"parent": 0, "base_model": "tiny", "base_digest": "", "kind": "imported", "proof": proof}
                asyncio.run(store.publish(adapter, **lineage))
            store.promote(1)


def merge(*tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tables of a configuration, of which the later ones win key by key."""
    together: dict[str, dict[str, Any]] = {}
    for some in tables:
        for name, table in some.items():
            together[name] = together.get(name, {}) | table
    return together


@contextmanager
def running_arena(folder: Path, model: Path, adapters: Sequence[Proven] = (), **options: Any) -> Iterator[Arena]:
    """An arena whose daemon runs, and serves the first of `adapters` if there are any."""
    arena = Arena(folder, model, **options)
    if adapters:
        arena.seed(adapters)
    try:
        arena.start()
        yield arena
    finally:
        arena.close()


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _children(process: psutil.Process, *, recursive: bool = False) -> list[psutil.Process]:
    try:
        return process.children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
