"""The client: it has every operation of the API, both kinds give the same, and errors are what the daemon had."""

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from reheatd.api.operations import ADMIN, Operation
from reheatd.client import AsyncClient, Client, requests
from reheatd.client.answers import AnsweredError, VersionMismatchError
from reheatd.client.requests import Request
from reheatd.client.waiting import WaitTimeoutError
from reheatd.errors import (
    AdapterInvalidError,
    AuthenticationError,
    BadInputError,
    ConflictError,
    DaemonUnreachableError,
    EngineUnavailableError,
    NotFoundError,
    QueueFullError,
    ReheatdError,
    SlotsFullError,
)
from reheatd.jobs.contracts import JobStatus, ReheatRequest, RLRequest
from tests.random_adapter import random_adapter
from tests.unit.test_cli_adapter_files import Daemon
from tests.unit.test_cli_commands import ASKING, JOB, FakeDaemon, fake_daemon

SAMPLES: dict[str, Any] = {
    "version": "policy-v3",
    "job_id": "j1",
    "keep": 2,
    "request": ReheatRequest(tau=1.5),
    "step": 4,
    "last": 7,
    "after": 1,
    "source": "live",
    "any_base": True,
}
"""An argument of each name that the methods take."""


@pytest.fixture
def daemon(tmp_path: Path, tiny_policy: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data", tiny_policy) as running:
        yield running


def request_of(operation: Operation, adapter: Path) -> Request[Any]:
    build: Callable[..., Request[Any]] = getattr(requests, operation.name)
    samples = {**SAMPLES, "path": adapter}
    return build(**{name: samples[name] for name in inspect.signature(build).parameters})


@pytest.mark.parametrize("operation", ADMIN, ids=lambda operation: operation.name)
def test_every_operation_has_a_method_that_asks_for_it(operation: Operation, tiny_policy: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "trained", tiny_policy, rank=4)
    for kind in (Client, AsyncClient):
        assert inspect.isfunction(getattr(kind, operation.name)), f"{kind.__name__} lacks {operation.name}"
        assert getattr(kind, operation.name).__doc__
    request = request_of(operation, adapter)
    path = operation.path.replace("{version}", "3").replace("{job_id}", "j1")
    assert (request.method, request.path, request.also) == (operation.method, path, frozenset(operation.also))
    declared = {each["name"]: each for each in operation.parameters if each["in"] == "query"}
    assert request.query.keys() == declared.keys()
    if isinstance(operation.body, tuple):
        assert (request.body is not None) == bool(operation.body)
        for model in operation.body[:1]:
            model.model_validate(request.body)
    else:
        assert request.content is not None and request.body is None
    if isinstance(operation.answer, type) and issubclass(operation.answer, BaseModel):
        assert getattr(request.read, "__self__", None) is operation.answer


def test_there_is_no_request_without_an_operation() -> None:
    built = {
        name
        for name, value in vars(requests).items()
        if inspect.isfunction(value) and value.__module__ == requests.__name__ and not name.startswith("_")
    }
    assert built == {operation.name for operation in ADMIN}


def test_methods_say_what_they_take_and_do() -> None:
    assert list(inspect.signature(Client.rollouts).parameters) == ["self", "job_id", "last", "step"]
    with Client("http://127.0.0.1:9") as client:
        assert list(inspect.signature(client.promote).parameters) == ["version"]
    assert (AsyncClient.promote.__doc__ or "").startswith("Serves a version")


def test_a_daemon_answers_both_clients_alike(daemon: Daemon, tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "mine", daemon.model, rank=4)

    async def asynchronously() -> tuple[Any, ...]:
        async with AsyncClient(daemon.url) as client:
            await client.export_adapter(3, tmp_path / "by-async")
            imported = await client.import_adapter(adapter)
            listed = await client.adapters()
            with pytest.raises(ConflictError, match="exists already"):
                await client.export_adapter(3, tmp_path / "by-async")
            with pytest.raises(NotFoundError, match="version 9"):
                await client.export_adapter(9, tmp_path / "nothing")
            with pytest.raises(AdapterInvalidError):
                await client.import_adapter(tmp_path)
            return imported.kind, listed, (await client.health()).status, (await client.journal()).entries[0].event

    with Client(daemon.url) as client:
        client.export_adapter("policy-v3", tmp_path / "by-client")
        imported = client.import_adapter(adapter)
        mine = imported.kind, client.adapters(), client.health().status, client.journal().entries[0].event
        assert asyncio.run(asynchronously()) == mine
        assert {job.job_id for job in client.jobs().jobs} >= {imported.job_id}
        assert "reheatd_promoted_version" in client.metrics()
        assert client.openapi()["info"]["title"] == "reheatd"
        assert client.measure().verdict == client.entropy(last=1).windows[0].verdict
        assert client.delete_adapter("v2").deleted == [2]
        with pytest.raises(NotFoundError, match="version 2") as missing:
            client.adapter(2)
        assert (missing.value.code, missing.value.param) == ("not_found", "version")
        with pytest.raises(BadInputError, match="tau"):
            client.submit_job(ReheatRequest(tau=1.0, force=True))
    for folder in ("by-client", "by-async"):
        assert (tmp_path / folder / "adapter_model.safetensors").read_bytes()
    assert not (tmp_path / "nothing").exists()


def test_events_begin_behind_the_entry_that_was_read_last(daemon: Daemon) -> None:
    async def asynchronously() -> Any:
        async with AsyncClient(daemon.url) as client:
            with pytest.raises(BadInputError, match="after"):
                await anext(client.events(after=10**9))
            return await anext(client.events(after=1))

    with Client(daemon.url) as client:
        client.delete_adapter("v2")
        client.prune(9)
        entries = client.journal().entries
        with pytest.raises(BadInputError, match="after"):
            next(client.events(after=10**9))
        following = client.events(after=0)
        told = [next(following) for _ in entries]
    assert [event.entry for event in told if event.kind == "journal"] == entries
    assert asyncio.run(asynchronously()) == told[1]


def test_a_new_folder_is_exported_to_or_none(daemon: Daemon, tmp_path: Path) -> None:
    with Client(daemon.url) as client:
        for version, error in (("base", ConflictError), (17, NotFoundError)):
            with pytest.raises(error):
                client.export_adapter(version, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "not_found", NotFoundError),
        (409, "no_free_slot", SlotsFullError),
        (429, "queue_full", QueueFullError),
        (401, "invalid_api_key", AuthenticationError),
        (503, "engine_unavailable", EngineUnavailableError),
        (500, "internal_error", ReheatdError),
        (507, "disk_limit", AnsweredError),
    ],
)
def test_an_error_is_the_one_that_the_daemon_had(status: int, code: str, kind: type[ReheatdError]) -> None:
    body = {"error": {"message": "no; do this", "type": "x", "param": "version", "code": code}}
    with (
        fake_daemon(**{"GET /reheatd/v1/status": [(status, body)]}) as url,
        Client(url) as client,
        pytest.raises(kind) as caught,
    ):
        client.status()
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.status, error.param) == (code, status, "version")
    assert error.message.startswith("no; do this")
    assert ("REHEATD_API_KEY" in error.message) == (status == 401)
    assert error.openai_object()["error"]["code"] == code


def test_what_is_not_reheatd_or_of_another_version_is_told_apart() -> None:
    answers: dict[str, list[tuple[int, Any]]] = {
        "GET /reheatd/v1/jobs/j1": [(200, {**JOB, "mood": "good"})],
        "GET /reheatd/v1/jobs/j2": [(200, "<html>")],
        "GET /reheatd/v1/jobs/j3": [(502, "<html>")],
        "GET /reheatd/v1/jobs/j4": [(418, {"detail": "teapot"})],
    }
    with fake_daemon(**answers) as url, Client(url) as client:
        with pytest.raises(VersionMismatchError, match="mood"):
            client.job("j1")
        for job in ("j2", "j3"):
            with pytest.raises(DaemonUnreachableError, match="is not reheatd"):
                client.job(job)
        with pytest.raises(AnsweredError, match="HTTP 418") as caught:
            client.job("j4")
        assert caught.value.status == 418
    with pytest.raises(DaemonUnreachableError, match=r"127\.0\.0\.1:9.*REHEATD_URL"):
        Client("http://127.0.0.1:9").status()
    with pytest.raises(BadInputError, match="is not an address"):
        Client("nonsense").status()


def test_address_and_key_come_from_the_environment_unless_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_daemon(**{"GET /health": [(503, {"status": "starting"})]}) as url:
        monkeypatch.setenv("REHEATD_URL", f"{url}/")
        monkeypatch.setenv("REHEATD_API_KEY", "rh-env")
        with Client() as client:
            assert client.url == url
            assert client.health().status == "starting"
    monkeypatch.setenv("REHEATD_CA_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(BadInputError, match="REHEATD_CA_FILE"):
        Client("https://127.0.0.1:9")
    with pytest.raises(BadInputError, match="ca_file"):
        Client("https://127.0.0.1:9", ca_file=tmp_path / "other.pem")
    with pytest.raises(BadInputError, match="api_key does not hold"):
        Client(api_key="two words")


RUNNING = {**JOB, "status": "running", "phase": "training", "step": 1, "steps": 3}
STORY = [(200, JOB), (200, RUNNING), (200, RUNNING), (200, {**RUNNING, "step": 2}), (200, {**JOB, "status": "failed"})]


def test_a_job_is_followed_to_its_end_and_each_change_is_told_once() -> None:
    async def asynchronously(url: str) -> list[tuple[str, int]]:
        async with AsyncClient(url) as client:
            seen = [(job.status.value, job.step) async for job in client.updates("j1", poll_s=0.01)]
            assert (await client.wait("j1")).status is JobStatus.FAILED
            return seen

    with fake_daemon(**{"GET /reheatd/v1/jobs/j1": [*STORY]}) as url, Client(url) as client:
        seen = [(job.status.value, job.step) for job in client.updates("j1", poll_s=0.01)]
        assert client.wait("j1").status is JobStatus.FAILED
    assert seen == [("queued", 0), ("running", 1), ("running", 2), ("failed", 0)]
    with fake_daemon(**{"GET /reheatd/v1/jobs/j1": [*STORY]}) as url:
        assert asyncio.run(asynchronously(url)) == seen


def test_waiting_ends_where_somebody_has_to_decide_or_the_time_is_up() -> None:
    asking = {**JOB, **ASKING}
    with fake_daemon(**{"GET /reheatd/v1/jobs/j1": [(200, asking)]}) as url, Client(url) as client:
        assert client.wait("j1").status is JobStatus.AWAITING_APPROVAL
    proposed = {**JOB, "status": "awaiting_approval"}  # it has not begun, so it may still go on
    with fake_daemon(**{"GET /reheatd/v1/jobs/j1": [(200, proposed)]}) as url:
        with Client(url) as client, pytest.raises(WaitTimeoutError, match="j1, which is awaiting_approval"):
            client.wait("j1", timeout_s=0.05, poll_s=0.01)

        async def asynchronously() -> None:
            async with AsyncClient(url) as client:
                with pytest.raises(TimeoutError):
                    await client.wait("j1", timeout_s=0.05, poll_s=0.01)

        asyncio.run(asynchronously())


def test_a_request_has_only_what_was_asked_for() -> None:
    with fake_daemon(**{"POST /reheatd/v1/jobs": [(202, JOB)]}) as url, Client(url) as client:
        client.submit_job(RLRequest(steps=3))
    assert FakeDaemon.asked == [("POST /reheatd/v1/jobs", {"kind": "rl", "steps": 3})]


HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "celery",
    "kombu",
    "redis",
    "aiohttp",
    "starlette",
    "uvicorn",
    "numpy",
    "scipy",
)
IMPORT = """
import json, sys, time
began = time.perf_counter()
import httpx, pydantic
there = time.perf_counter()
import reheatd.client
ratio = (time.perf_counter() - there) / (there - began)
print(json.dumps({"ratio": ratio, "modules": sorted(sys.modules)}))
"""


def test_the_client_loads_nothing_heavy_and_soon() -> None:
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", IMPORT])) for _ in range(3)]
    loaded = {module.partition(".")[0] for module in runs[0]["modules"]}
    assert loaded.isdisjoint(HEAVY)
    # It takes two to three times as long as the two libraries that it is made of, and torch alone ten times as long.
    assert min(run["ratio"] for run in runs) < 6
