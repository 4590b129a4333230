"""The client for asyncio."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self

import httpx

from reheatd.client import requests
from reheatd.client.adapter_files import check_new, write_version
from reheatd.client.connection import DATA, SILENCE, TIMEOUT_S, Connection, like
from reheatd.client.requests import Answer, Request
from reheatd.client.waiting import POLL_S, WaitTimeoutError, is_settled
from reheatd.control.event_kinds import Event
from reheatd.jobs.contracts import Job

P = ParamSpec("P")


def _method(
    build: Callable[P, Request[Answer]],
) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, Answer]]":
    """The method that sends the request which `build` makes."""

    async def call(client: "AsyncClient", *args: P.args, **kwargs: P.kwargs) -> Answer:
        return await client.send(build(*args, **kwargs))

    like(build, call)
    return call


class AsyncClient:
    """Asks a daemon as `Client` does, and takes the same arguments, but every method is awaited.

    async with AsyncClient() as client:
        job = await client.submit_job(ReheatRequest(tau=1.5))
        async for update in client.updates(job.job_id):
            print(update.status, update.step)
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        ca_file: Path | str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._connection = Connection(url, api_key, ca_file, timeout_s, "url")
        self._http = httpx.AsyncClient(**self._connection.options)

    @property
    def url(self) -> str:
        """The daemon's address."""
        return self._connection.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, request: Request[Answer]) -> Answer:
        """Sends a request of `reheatd.client.requests`, and returns its answer."""
        with self._connection.explained():
            response = await self._http.request(
                request.method,
                self._connection.address(request),
                params=dict(request.query),
                json=request.body,
                content=None if request.content is None else _in_a_thread(request.content),
            )
        return self._connection.read(request, response)

    health = _method(requests.health)
    openapi = _method(requests.openapi)
    metrics = _method(requests.metrics)
    status = _method(requests.status)
    entropy = _method(requests.entropy)
    measure = _method(requests.measure)
    live = _method(requests.live)
    adapters = _method(requests.adapters)
    import_adapter = _method(requests.import_adapter)
    rollback = _method(requests.rollback)
    prune = _method(requests.prune)
    adapter = _method(requests.adapter)
    delete_adapter = _method(requests.delete_adapter)
    promote = _method(requests.promote)
    submit_job = _method(requests.submit_job)
    preview_job = _method(requests.preview_job)
    jobs = _method(requests.jobs)
    job = _method(requests.job)
    curves = _method(requests.curves)
    rollouts = _method(requests.rollouts)
    cancel_job = _method(requests.cancel_job)
    approve_job = _method(requests.approve_job)
    load_rollout_adapter = _method(requests.load_rollout_adapter)
    drop_rollout_adapters = _method(requests.drop_rollout_adapters)
    resume = _method(requests.resume)
    journal = _method(requests.journal)

    async def export_adapter(self, version: int | str, folder: Path | str) -> None:
        """Writes a version's files to a new folder; takes and raises the same as the method of `Client`."""
        request, target = requests.export_adapter(version), Path(folder)
        check_new(target)
        with tempfile.TemporaryFile() as file:
            with self._connection.explained():
                async with self._http.stream(request.method, self._connection.address(request)) as response:
                    if response.is_success:
                        async for part in response.aiter_bytes():
                            await asyncio.to_thread(file.write, part)
                    else:
                        await response.aread()
                        self._connection.read(request, response)
            await asyncio.to_thread(write_version, file, target)

    async def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        request = requests.events(after=after)
        with self._connection.explained():
            async with self._http.stream(
                request.method, self._connection.address(request), params=dict(request.query), timeout=SILENCE
            ) as response:
                if not response.is_success:
                    await response.aread()
                    self._connection.read(request, response)
                async for line in response.aiter_lines():
                    if line.startswith(DATA):
                        yield request.read(line.removeprefix(DATA).encode()).root

    like(requests.events, events)

    async def updates(self, job_id: str, *, poll_s: float = POLL_S) -> AsyncIterator[Job]:
        """Follows a job as the method of `Client` does."""
        seen: Job | None = None
        while seen is None or not is_settled(seen):
            if seen is not None:
                await asyncio.sleep(poll_s)  # nothing tells when another process changes
            job = await self.job(job_id)
            if job != seen:
                yield job
            seen = job

    async def wait(self, job_id: str, *, timeout_s: float | None = None, poll_s: float = POLL_S) -> Job:
        """Waits for a job as the method of `Client` does."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not is_settled(job := await self.job(job_id)):
            if deadline is not None and timeout_s is not None and time.monotonic() + poll_s > deadline:
                raise WaitTimeoutError(job, timeout_s)
            await asyncio.sleep(poll_s)
        return job


async def _in_a_thread(content: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of `content`, which reads files, without holding up the event loop."""
    while (piece := await asyncio.to_thread(next, content, None)) is not None:
        yield piece
