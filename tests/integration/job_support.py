"""What the tests of jobs share: a real broker, a real Celery worker, and jobs that train nothing."""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from reheatd.jobs.contracts import JobEvent, ReheatSpec
from reheatd.jobs.dispatch import JobDispatcher
from reheatd.options import TaskOptions
from reheatd.process.broker import EmbeddedBroker, embedded_broker, wait_for_broker
from tests.access import CREDENTIALS
from tests.integration.job_keys import may_finish_key

NUMBERS = itertools.count(1)


class Broker:
    """The embedded broker as the daemon starts it; can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._embedded: EmbeddedBroker = embedded_broker(folder)
        self.url = self._embedded.url
        self.start()

    def start(self) -> None:
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(self._embedded.command.argv, stdout=log, stderr=log)
        asyncio.run(wait_for_broker(self.url))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def running_worker(url: str, log: Path, **env: str) -> Iterator[psutil.Process]:
    """A real Celery worker with the tasks of `job_tasks`, which reads further environment variables."""
    arguments = "-A tests.integration.job_tasks worker --concurrency 1 --max-tasks-per-child 1 --loglevel INFO"
    with log.open("wb") as output:
        process = psutil.Popen(
            [sys.executable, "-m", "celery", *arguments.split(), "--hostname", f"{log.stem}@%h"],
            env={**os.environ, **env, "REHEATD_BROKER_URL": url},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        kill_tree(process)


def kill_tree(process: psutil.Process) -> None:
    if process.is_running():
        family = [*process.children(recursive=True), process]
        for member in family:
            member.kill()
        psutil.wait_procs(family)


def make_spec(behaviour: str) -> ReheatSpec:
    return ReheatSpec(
        job_id=f"reheat-{next(NUMBERS)}",
        parent_version=0,
        parent_adapter=None,
        model_path=Path("/model"),
        gateway_url="http://127.0.0.1:1",
        output_dir=Path("/job"),
        task=TaskOptions(reward=behaviour),
        tau=1.5,
    )


def with_dispatcher(
    broker: Broker, work: Callable[[JobDispatcher], Coroutine[Any, Any, None]], heartbeat_timeout_s: float = 60
) -> None:
    async def run() -> None:
        dispatcher = JobDispatcher(broker.url, heartbeat_timeout_s=heartbeat_timeout_s, credential=CREDENTIALS.of)
        try:
            await work(dispatcher)
        finally:
            await dispatcher.close()

    asyncio.run(run())


def let_finish(broker: Broker, job_id: str) -> None:
    """Ends a slow job."""
    with Redis.from_url(broker.url) as redis:
        redis.set(may_finish_key(job_id), 1)


def until_on_disk(broker: Broker) -> None:
    """Returns once the broker has written everything down that it was told so far."""
    with Redis.from_url(broker.url, single_connection_client=True) as redis:
        redis.set("last", 1)
        redis.execute_command("WAITAOF", 1, 0, 0)


async def follow(dispatcher: JobDispatcher, spec: ReheatSpec, after_id: str = "0") -> list[tuple[str, JobEvent]]:
    return [entry async for entry in dispatcher.events(spec.job_id, after_id)]


async def follow_until(dispatcher: JobDispatcher, spec: ReheatSpec, kind: str) -> None:
    async for _, event in dispatcher.events(spec.job_id):
        if event.kind == kind:
            return
