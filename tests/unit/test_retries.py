"""What is asked again while the other side is away, and what is not."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from reheatd.engine.client import EngineClient, Sample
from reheatd.errors import EngineError
from reheatd.jobs.contracts import ReheatSpec
from reheatd.process.broker import BrokerError, wait_for_broker
from tests.probes import task_probes
from tests.unit.workers_support import job_fields
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
    monkeypatch.setattr("workers.sampling.served.MAX_DELAY_S", 0.01)
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


def test_a_broker_that_is_not_there_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(BrokerError, match=rf"no broker answers at redis://127\.0\.0\.1:{port}/0 .* start a Redis"):
        asyncio.run(wait_for_broker(f"redis://:secret@127.0.0.1:{port}/0", timeout_s=0.2))
