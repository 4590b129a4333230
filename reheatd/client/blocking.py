"""The client for code that waits for its answers."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Concatenate, ParamSpec, Self

import httpx

from reheatd.client import requests
from reheatd.client.adapter_files import check_new, write_version
from reheatd.client.connection import DATA, SILENCE, TIMEOUT_S, Connection, like
from reheatd.client.requests import Answer, Request
from reheatd.client.waiting import POLL_S, WaitTimeoutError, is_settled
from reheatd.control.event_kinds import Event
from reheatd.jobs.contracts import Job

P = ParamSpec("P")


def _method(build: Callable[P, Request[Answer]]) -> "Callable[Concatenate[Client, P], Answer]":
    """The method that sends the request which `build` makes."""

    def call(client: "Client", *args: P.args, **kwargs: P.kwargs) -> Answer:
        return client.send(build(*args, **kwargs))

    like(build, call)
    return call


class Client:
    """Asks a daemon, with one method for each operation of its admin API; see `reheatd.client.requests`.

        with Client() as client:
            job = client.submit_job(ReheatRequest(tau=1.5))
            print(client.wait(job.job_id).status)

    Args:
        url: Address of the daemon; default: `REHEATD_URL`, or http://127.0.0.1:8000.
        api_key: Key for administration; default: that of `REHEATD_API_KEY` or `REHEATD_API_KEY_FILE`, if there is one.
        ca_file: Certificates to trust beside the system's; default: `REHEATD_CA_FILE`.
        timeout_s: Longest wait for an answer, in seconds. A promotion answers once the old version has drained.

    Raises:
        BadInputError: A file of the environment cannot be used.
    """

    named_by: ClassVar[str] = "url"
    """How the user names the address, for messages."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        ca_file: Path | str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._connection = Connection(url, api_key, ca_file, timeout_s, self.named_by)
        self._http = httpx.Client(**self._connection.options)

    @property
    def url(self) -> str:
        """The daemon's address."""
        return self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def send(self, request: Request[Answer]) -> Answer:
        """Sends a request of `reheatd.client.requests`, and returns its answer."""
        with self._connection.explained():
            response = self._http.request(
                request.method,
                self._connection.address(request),
                params=dict(request.query),
                json=request.body,
                content=request.content,
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

    def export_adapter(self, version: int | str, folder: Path | str) -> None:
        """Writes a version's files to a new folder, as PEFT, TRL and vLLM load them.

        Args:
            version: As for `adapter`.
            folder: Appears once it is complete.

        Raises:
            ConflictError: There is something at `folder`, or the version has no adapter.
            NotFoundError: There is no such version.
            ArchiveInvalidError: What came is damaged, or the folder cannot be written.
        """
        request, target = requests.export_adapter(version), Path(folder)
        check_new(target)
        with tempfile.TemporaryFile() as file:
            with (
                self._connection.explained(),
                self._http.stream(request.method, self._connection.address(request)) as response,
            ):
                if response.is_success:
                    for part in response.iter_bytes():
                        file.write(part)
                else:
                    response.read()
                    self._connection.read(request, response)
            write_version(file, target)

    def events(self, *, after: int | None = None) -> Iterator[Event]:
        request = requests.events(after=after)
        with (
            self._connection.explained(),
            self._http.stream(
                request.method, self._connection.address(request), params=dict(request.query), timeout=SILENCE
            ) as response,
        ):
            if not response.is_success:
                response.read()
                self._connection.read(request, response)
            for line in response.iter_lines():
                if line.startswith(DATA):
                    yield request.read(line.removeprefix(DATA).encode()).root

    like(requests.events, events)

    def updates(self, job_id: str, *, poll_s: float = POLL_S) -> Iterator[Job]:
        """Follows a job: yields it as it is now, and again whenever it has changed, until nothing more happens to it.

        The last one has ended, or waits for somebody to decide on its version (`awaiting_approval`, with a `version`).

        Args:
            poll_s: Time between two looks, in seconds.
        """
        seen: Job | None = None
        while seen is None or not is_settled(seen):
            if seen is not None:
                time.sleep(poll_s)  # nothing tells when another process changes
            job = self.job(job_id)
            if job != seen:
                yield job
            seen = job

    def wait(self, job_id: str, *, timeout_s: float | None = None, poll_s: float = POLL_S) -> Job:
        """Waits until nothing more happens to a job by itself, and returns it; see `updates`.

        Args:
            timeout_s: Longest wait, in seconds; default: no limit.

        Raises:
            WaitTimeoutError: The job has not ended within `timeout_s`; it goes on.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not is_settled(job := self.job(job_id)):
            if deadline is not None and timeout_s is not None and time.monotonic() + poll_s > deadline:
                raise WaitTimeoutError(job, timeout_s)
            time.sleep(poll_s)
        return job
