"""What a worker reports while it works, and what it costs."""

import time
from pathlib import Path
from typing import Any

import pytest

from cli.render import job_progress
from reheatd.jobs.contracts import Job, JobStatus, RLRequest
from reheatd.jobs.curves import CurveWriter, read_curves
from tests.unit.recording_channel import RecordingChannel
from workers import progress
from workers.progress import ChannelProgress, JobCancelledError


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_phase_is_counted_at_most_twice_a_second(clock: Clock) -> None:
    channel = RecordingChannel()
    reporting = ChannelProgress(channel, 30)
    reporting.report("sampling", 4)
    for done in range(1, 33):
        clock.now += 0.1
        reporting.count(done, 32)
    assert channel.sent[0] == ("sampling", 4, 30, 0, 0)
    counts = [report[3] for report in channel.sent[1:]]
    assert counts == sorted(counts) and 5 <= len(counts) <= 6
    assert all(report[:3] == ("sampling", 4, 30) and report[4] == 32 for report in channel.sent[1:])
    reporting.report("training", 5)
    assert channel.sent[-1] == ("training", 5, 30, 0, 0)


def test_a_cancellation_is_noticed_within_a_phase(clock: Clock) -> None:
    channel = RecordingChannel()
    reporting = ChannelProgress(channel, 30)
    reporting.report("evaluating", 0)
    channel.cancelled = True
    reporting.count(1, 32)
    clock.now += 1.0
    with pytest.raises(JobCancelledError):
        reporting.count(2, 32)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"phase": "waiting for a worker"}, "waiting for a worker"),
        ({"phase": "training", "step": 4, "steps": 30}, "step 4 of 30, training"),
        ({"phase": "sampling", "step": 4, "steps": 30, "done": 12, "of": 48}, "step 4 of 30, sampling 12 of 48"),
        ({"phase": "", "step": 6, "steps": 30, "done": 48, "of": 48, "status": JobStatus.GATING}, "step 6 of 30"),
        ({"step": 6, "steps": 30, "status": JobStatus.SUCCEEDED}, ""),
    ],
)
def test_users_see_how_far_a_job_is(fields: dict[str, Any], shown: str) -> None:
    job = Job(
        job_id="rl-1",
        kind="rl",
        trigger="manual",
        created_at=time.time(),
        parent_version=0,
        request=RLRequest(),
        **{"status": JobStatus.RUNNING, **fields},
    )
    assert job_progress(job) == shown


def test_metrics_are_kept_step_by_step_once_the_daemon_has_them(tmp_path: Path) -> None:
    channel = RecordingChannel()
    reporting = ChannelProgress(channel, 30, CurveWriter(tmp_path / "curves.jsonl"))
    reporting.report("sampling", 0)
    reporting.report("training", 1, {"loss": 0.5})
    reporting.report("measuring", 1, {"probe_entropy": 0.9})
    reporting.report("training", 2, {"loss": 0.4})
    channel.cancelled = True
    with pytest.raises(JobCancelledError):
        reporting.report("training", 3, {"loss": 0.3})
    points = [(point.step, point.metrics) for point in read_curves(tmp_path / "curves.jsonl")]
    assert points == [(1, {"loss": 0.5, "probe_entropy": 0.9}), (2, {"loss": 0.4})]
    assert reporting.metrics == {"loss": 0.3, "probe_entropy": 0.9}
