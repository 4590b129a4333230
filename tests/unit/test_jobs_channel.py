"""What a worker does while the broker is away."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis
from redis.exceptions import RedisError

from reheatd.jobs import channel
from reheatd.jobs.channel import JobChannel
from reheatd.jobs.keys import events_key
from tests.integration.job_support import Broker, until_on_disk
from workers import tasks
from workers.progress import ProgressChannel


def test_a_worker_waits_for_a_broker_that_is_away_for_longer_than_one_call_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channel, "RECONNECTIONS", 0)
    monkeypatch.setattr(channel, "BEAT_S", 0.05)
    broker = Broker(tmp_path)
    try:
        with JobChannel(broker.url, "rl-1", 1) as reporter:
            reporter.started()
            until_on_disk(broker)
            broker.kill()
            reporting = threading.Thread(target=reporter.progress, args=("training", 1, 2, {}))
            reporting.start()
            while "waits for the broker" not in caplog.text:
                assert reporting.is_alive()
            broker.start()
            reporting.join()
            assert not reporter.is_cancelled()
        with Redis.from_url(broker.url) as redis:
            assert redis.xlen(events_key("rl-1")) == 2
    finally:
        broker.kill()


def test_a_worker_that_cannot_report_does_not_call_its_job_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Channel:
        """A channel whose broker does not come back."""

        def __enter__(self) -> "Channel":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def started(self) -> None:
            pass

        def failed(self, error: str) -> None:
            raise AssertionError(f"reported as failed: {error}")

    def run(spec: object, reporter: ProgressChannel, credential: str | None) -> None:
        raise RedisError("Connection refused")

    monkeypatch.setattr(tasks, "JobChannel", lambda *_: Channel())
    monkeypatch.setattr(tasks, "begin_attempt", lambda spec, attempt: spec)
    monkeypatch.setattr(tasks, "run", run)
    with pytest.raises(RedisError, match="Connection refused"):
        tasks.run_reported(SimpleNamespace(job_id="rl-1"), 1, "credential", "redis://nowhere")  # pyright: ignore[reportArgumentType]
