"""What is asked again while the other side is away, and what is not."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from reheatd.engine.client import EngineClient, Sample
from reheatd.errors import ConflictError, EngineError, EngineUnavailableError, ReheatdError, SlotsFullError
from reheatd.jobs.contracts import ReheatSpec
from reheatd.process.broker import BrokerError, wait_for_broker
from tests.probes import task_probes
from tests.unit.recording_channel import RecordingChannel
from tests.unit.workers_support import job_fields
from workers.progress import ChannelProgress, JobCancelledError
from workers.sampling.served import ServedSampler

ANSWER = Sample(prompt_ids=[1], token_ids=[2], text="x", logprobs=[-0.1], tokens=[], finish_reason="stop")


class Gateway:
    """Fails as it is told before it answers."""

    def __init__(self, *statuses: int | None, takes_s: float = 0.0) -> None:
        self.statuses = list(statuses)
        self.takes_s = takes_s
        self.asked = 0

    async def chat(self, *_: Any, **__: Any) -> list[Sample]:
        self.asked += 1
        await asyncio.sleep(self.takes_s)
        if self.statuses:
            error = EngineError("not now")
            error.upstream_status = self.statuses.pop(0)
            raise error
        return [ANSWER]


def sample(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retry_s: float = 60) -> list[str]:
    monkeypatch.setattr("workers.sampling.retries.MAX_DELAY_S", 0.01)
    monkeypatch.setattr(EngineClient, "chat", lambda _, *given, **named: gateway.chat(*given, **named))
    spec = ReheatSpec(**job_fields(tmp_path), tau=1.5, retry_s=retry_s)
    with ServedSampler(spec, task_probes(2)) as sampler:
        ((rollout,),) = sampler.sample([[{"role": "user", "content": "?"}]], n=1, max_tokens=1, temperature=1.0, seed=0)
    return [rollout.text]


def test_sampling_goes_on_when_the_engine_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(None, 503, 429)
    assert sample(gateway, tmp_path, monkeypatch) == ["x"]
    assert gateway.asked == 4


def test_a_request_that_is_wrong_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(400)
    with pytest.raises(EngineError, match="not now"):
        sample(gateway, tmp_path, monkeypatch)
    assert gateway.asked == 1


def test_an_engine_that_stays_away_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(*[None] * 1000)
    with pytest.raises(EngineError, match="not now"):
        sample(gateway, tmp_path, monkeypatch, retry_s=0.1)
    assert 1 < gateway.asked < 100


def test_an_engine_that_was_slow_before_it_went_away_is_waited_for_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(None, takes_s=1.2)
    assert sample(gateway, tmp_path, monkeypatch, retry_s=1.0) == ["x"]


@pytest.mark.parametrize("wait", ["for an engine that is away", "for an answer"])
def test_a_job_that_waits_for_the_engine_is_cancelled(
    wait: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.sampling.served.LOOK_UP_S", 0.01)
    gateway = Gateway(*[503] * 1000) if wait == "for an engine that is away" else Gateway(takes_s=600)
    monkeypatch.setattr(EngineClient, "chat", lambda _, *given, **named: gateway.chat(*given, **named))
    channel = RecordingChannel()
    progress = ChannelProgress(channel, 1)
    prompt = [[{"role": "user", "content": "?"}]]

    def cancel_once_it_waits() -> None:
        channel.cancelled = gateway.asked > 0
        progress.look_up()

    spec = ReheatSpec(**job_fields(tmp_path), tau=1.5)
    with (
        ServedSampler(spec, task_probes(2), on_wait=cancel_once_it_waits) as sampler,
        pytest.raises(JobCancelledError),
    ):
        sampler.sample(prompt, n=1, max_tokens=1, temperature=1.0, seed=0)


class Daemon(BaseHTTPRequestHandler):
    """Answers a worker that publishes a snapshot as it is told, before it loads it."""

    answers: ClassVar[list[tuple[int, dict[str, Any]]]] = []
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        status, body = self.answers.pop(0) if self.answers else (200, {"model": "job-a-1"})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def daemon() -> Iterator[str]:
    Daemon.answers, Daemon.asked = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Daemon) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def spec_for(daemon: str, folder: Path) -> ReheatSpec:
    fields: dict[str, Any] = {**job_fields(folder), "gateway_url": daemon}
    return ReheatSpec(**fields, tau=1.5)


def refused(error: ReheatdError) -> tuple[int, dict[str, Any]]:
    return error.status, error.openai_object()


@pytest.mark.parametrize(
    ("answers", "tries"),
    [
        ([refused(EngineUnavailableError("no engine is ready"))] * 2, 3),
        ([refused(SlotsFullError("no adapter slot is free"))], 2),
        ([(500, {}), refused(EngineError("it restarts"))], 3),
    ],
)
def test_a_snapshot_is_published_when_the_engine_is_back_or_a_slot_is_free(
    answers: list[tuple[int, dict[str, Any]]], tries: int, daemon: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.sampling.retries.MAX_DELAY_S", 0.01)
    Daemon.answers = list(answers)
    spec = spec_for(daemon, tmp_path)
    with ServedSampler(spec, task_probes(2)) as sampler:
        sampler.load(tmp_path, 1)
        assert sampler.model == "job-a-1"
    assert Daemon.asked == [{"path": str(tmp_path), "step": 1}] * tries


def test_a_snapshot_that_is_refused_is_not_published_again(
    daemon: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.sampling.retries.MAX_DELAY_S", 0.01)
    Daemon.answers = [refused(ConflictError("the job is not running"))]
    spec = spec_for(daemon, tmp_path)
    with ServedSampler(spec, task_probes(2)) as sampler, pytest.raises(EngineError, match="the job is not running"):
        sampler.load(tmp_path, 1)
    assert len(Daemon.asked) == 1


def test_a_broker_that_is_not_there_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(BrokerError, match=rf"no broker answers at redis://127\.0\.0\.1:{port}/0 .* start a Redis"):
        asyncio.run(wait_for_broker(f"redis://:secret@127.0.0.1:{port}/0", timeout_s=0.2))
