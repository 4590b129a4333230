"""What a tracker gets of jobs: everything once, one run per job, whatever fails."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from reheatd.jobs.attempts import of_attempt
from reheatd.jobs.contracts import ImportRequest, ImportSpec, JobStatus, RLRequest
from reheatd.jobs.curves import CurveWriter
from reheatd.trackers.children import tracker_health
from reheatd.trackers.job_facts import CANDIDATES
from reheatd.trackers.progress import GIVE_UP_S, LONGEST_PAUSE_S, progress_file, read_progress
from tests.unit.tracked_jobs import POLICY, RecordingTracker, TrackedJobs, follower
from workers.candidates import CHEAP, COSTLY


@pytest.fixture
def jobs(tmp_path: Path) -> TrackedJobs:
    return TrackedJobs(tmp_path / "data")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    clock = Clock()
    monkeypatch.setattr("reheatd.trackers.progress.time.time", clock)
    return clock


class Clock:
    """Time as trackers see it."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def test_a_run_gets_each_point_once_as_it_comes_and_the_outcome_at_the_end(jobs: TrackedJobs) -> None:
    tracker = RecordingTracker()
    following = follower(jobs, tracker)
    job = jobs.begin(steps=2, learning_rate=3e-4)
    assert following.look() and not tracker.runs  # there is nothing to show yet
    job.report(1, loss=0.5, entropy=0.25)
    assert following.look() and following.look()
    job.report(1, probe_entropy=0.375)  # the same step in a second part
    job.report(2, loss=0.25, entropy=0.5)
    assert following.look()
    run = tracker.runs[job.job_id]
    assert run.curves == {
        "train/loss": [(1, 0.5), (2, 0.25)],
        "train/entropy": [(1, 0.25), (2, 0.5)],
        "eval/probe_entropy": [(1, 0.375)],
    }
    assert not run.outcomes
    job.finish()
    assert following.look() and following.look()
    (info,), (outcome,) = run.infos, run.outcomes
    assert (info.job_id, info.policy, info.kind) == (job.job_id, POLICY, "rl")
    expected = {"policy": POLICY, "kind": "rl", "trigger": "manual", "steps": 2, "learning_rate": 3e-4, "lora.rank": 16}
    assert info.config.items() >= expected.items()
    assert not any(name.startswith(("parent_accuracy", "gateway_url", "places")) for name in info.config)
    assert (outcome.status, outcome.step, outcome.is_failure, outcome.report) == ("succeeded", 2, False, None)
    assert outcome.summary == {
        "job/status": "succeeded",
        "job/version": 3,
        "job/parent_version": 0,
        "job/attempts": 1,
        "job/steps": 2,
        "job/stopped": "steps",
        "job/seconds": 12.5,
        "job/entropy_before": 0.25,
        "job/entropy_after": 0.75,
        "job/accuracy_before": 20 / 48,
        "job/accuracy_after": 30 / 48,
        "job/pass_at_4_before": 0.5,
        "job/pass_at_4_after": 0.625,
        "job/gate/entropy": "passed",
        "job/gate/accuracy": "passed",
        "job/gates": "entropy passed: 0.75 is above the floor\naccuracy passed: 30 of 48 | before 20",
    }


@pytest.mark.parametrize("keeps", [True, False])
def test_all_attempts_at_a_job_are_one_run_also_after_a_restart(jobs: TrackedJobs, keeps: bool) -> None:
    first, second = RecordingTracker(keeps=keeps), RecordingTracker(keeps=keeps)
    following = follower(jobs, first)
    job = jobs.begin()
    for step in (1, 2, 3):
        job.report(step, loss=float(step))
    assert following.look()
    following.pause()
    assert first.runs[job.job_id].pauses == 1
    job.attempt(2)  # its checkpoint was made after step 1
    for step in (2, 3, 4):
        job.report(step, loss=10.0 * step)
    following = follower(jobs, second)
    assert following.look()
    run = second.runs[job.job_id]
    if keeps:
        assert run.curves == {"train/loss": [(4, 40.0)]}
    else:  # what the process before had taken may never have arrived
        assert run.curves == {"train/loss": [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]}
    assert [(point.row, point.step) for point in run.points][-1] == (3, 4)
    job.finish()
    assert following.look()
    assert [outcome.summary["job/attempts"] for outcome in run.outcomes] == [2]
    following = follower(jobs, third := RecordingTracker(keeps=keeps))
    assert following.look() and not third.runs


def test_what_is_over_is_forgotten(jobs: TrackedJobs) -> None:
    """Otherwise each look would take longer than the one before."""
    following = follower(jobs, tracker := RecordingTracker())
    waiting = jobs.begin()
    for _ in range(3):  # the numbers of jobs have gaps, because each record that is saved takes one
        jobs.begin().finish()
    assert following.look()
    progress = read_progress(progress_file(jobs.settings.data_dir, "recording"))
    assert progress is not None and (progress.first, len(progress.done)) == (1, 3)
    waiting.finish()
    last = jobs.begin()
    assert following.look() and following.look()
    last.report(1, loss=1.0)
    assert following.look()
    progress = read_progress(progress_file(jobs.settings.data_dir, "recording"))
    assert progress is not None and progress.done == [] and progress.first > 4
    assert len(tracker.runs) == 5


def test_a_new_tracker_gets_the_jobs_that_are_not_over(jobs: TrackedJobs) -> None:
    old, running = jobs.begin(), jobs.begin()
    old.report(1, loss=1.0)
    old.finish()
    running.report(1, loss=1.0)
    tracker = RecordingTracker()
    following = follower(jobs, tracker)
    assert following.look()
    jobs.ledger.create(RLRequest(), "manual", JobStatus.QUEUED, 0)
    withdrawn = jobs.ledger.create(RLRequest(), "manual", JobStatus.QUEUED, 0)
    jobs.ledger.finish(withdrawn, JobStatus.CANCELLED, "cancelled", jobs.ledger.state)
    assert following.look()
    assert list(tracker.runs) == [running.job_id]


def test_a_new_database_begins_anew(jobs: TrackedJobs, tmp_path: Path) -> None:
    for _ in range(9):
        jobs.begin().finish()
    assert follower(jobs, RecordingTracker()).look()
    other = TrackedJobs(tmp_path / "other")
    progress_file(jobs.settings.data_dir, "recording").parent.rename(tmp_path / "other" / "trackers")
    following = follower(other, tracker := RecordingTracker())
    job = other.begin()
    job.report(1, loss=1.0)
    assert following.look()
    assert list(tracker.runs) == [job.job_id]


@pytest.mark.parametrize("status", [JobStatus.REJECTED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_does_not_succeed_says_so(jobs: TrackedJobs, status: JobStatus) -> None:
    following = follower(jobs, tracker := RecordingTracker())
    job = jobs.begin()
    job.finish(status)
    assert following.look()
    (outcome,) = tracker.runs[job.job_id].outcomes
    assert (outcome.summary["job/status"], outcome.summary["job/error"]) == (status, "it went wrong")
    assert outcome.is_failure == (status is not JobStatus.REJECTED)
    assert ("job/entropy_after" in outcome.summary) == (status is not JobStatus.FAILED)


def test_the_configuration_has_the_length_that_the_job_found(jobs: TrackedJobs) -> None:
    following = follower(jobs, tracker := RecordingTracker())
    job = jobs.begin(max_tokens="auto")
    job.report(0, accuracy=0.5)
    assert following.look() and not tracker.runs
    job.record.spec = job.spec.model_copy(update={"max_tokens": 96})
    jobs.ledger.save(job.record)
    assert following.look()
    assert tracker.runs[job.job_id].infos[0].config["max_tokens"] == 96


def test_the_candidates_of_a_job_have_curves_of_their_own(jobs: TrackedJobs) -> None:
    assert (*CHEAP, *COSTLY) == CANDIDATES
    following = follower(jobs, tracker := RecordingTracker())
    job = jobs.begin(remedy="auto", rl={"max_tokens": 64})

    def candidate(remedy: str) -> CurveWriter:
        folder = of_attempt(job.spec, 1).output_dir / "candidates" / remedy
        folder.mkdir(parents=True)
        return CurveWriter(folder / "curves.jsonl")

    shrink = candidate("shrink")
    for step in (1, 2):
        shrink.add(step, {"factor": 1 / step})
    assert following.look()
    candidate("ts_opsd").add(1, {"loss": 0.5})
    assert following.look()
    run = tracker.runs[job.job_id]
    assert run.curves == {"shrink/train/factor": [(1, 1.0), (2, 0.5)], "ts_opsd/train/loss": [(1, 0.5)]}
    assert [point.row for point in run.points] == [0, 1, 2]


def test_an_import_is_a_run_with_what_was_measured_of_it(jobs: TrackedJobs) -> None:
    following = follower(jobs, tracker := RecordingTracker())
    record = jobs.ledger.create(ImportRequest(source="theirs.tar"), "manual", JobStatus.QUEUED, 0)
    template = jobs.begin().spec
    shared = {name: getattr(template, name) for name in ("parent_adapter", "model_path", "gateway_url", "output_dir")}
    record.spec = ImportSpec(
        job_id=record.job.job_id, parent_version=0, adapter=Path("/a"), source="theirs.tar", trained_on=None, **shared
    )
    record.job.status = JobStatus.SUCCEEDED
    record.job.version = 7
    jobs.ledger.save(record)
    assert following.look()
    run = tracker.runs[record.job.job_id]
    assert (run.infos[0].kind, run.infos[0].config["source"]) == ("import", "theirs.tar")
    assert run.outcomes[0].summary["job/version"] == 7


def test_a_failure_costs_one_job_a_while_and_nothing_is_lost(jobs: TrackedJobs, clock: Clock) -> None:
    tracker = RecordingTracker()
    bad, good = jobs.begin(), jobs.begin()

    def refuse(job_id: str, what: str) -> None:
        if job_id == bad.job_id:
            raise ConnectionError("no route\nto http://me:hunter2@server/api")

    tracker.fails = refuse
    for job in (bad, good):
        job.report(1, loss=1.0)
    assert not follower(jobs, tracker).look()
    assert follower(jobs, tracker).look()  # the process after that one goes on with the other job
    assert list(tracker.runs) == [good.job_id]
    progress = read_progress(progress_file(jobs.settings.data_dir, "recording"))
    assert (
        progress is not None and progress.jobs[bad.job_id].problem == "ConnectionError: no route to http://server/api"
    )
    for failures in range(1, 12):
        clock.now += LONGEST_PAUSE_S
        assert not follower(jobs, tracker).look(), failures
    bad.report(2, loss=2.0)
    bad.finish()
    tracker.fails = lambda job_id, what: None
    assert follower(jobs, tracker).look()
    assert bad.job_id not in tracker.runs  # its next attempt is not due
    clock.now += LONGEST_PAUSE_S
    assert follower(jobs, tracker).look()
    assert tracker.runs[bad.job_id].curves == {"train/loss": [(1, 1.0), (2, 2.0)]}
    assert len(tracker.runs[bad.job_id].outcomes) == 1


def test_what_is_refused_for_days_is_said_to_be_lost(jobs: TrackedJobs, clock: Clock) -> None:
    tracker = RecordingTracker()

    def refuse(job_id: str, what: str) -> None:
        raise ValueError("never")

    tracker.fails = refuse
    following = follower(jobs, tracker)
    job, later = jobs.begin(), jobs.begin()
    job.finish()
    assert not following.look()
    clock.now += GIVE_UP_S + 1
    later.record.job.created_at = clock.now
    assert not following.look()
    settings = jobs.settings.model_copy(
        update={"trackers": jobs.settings.trackers.model_copy(update={"names": ["recording"]})}
    )
    (health,) = tracker_health(settings)
    assert health.lost == {job.job_id: "ValueError: never"}
    assert job.job_id in health.detail
    tracker.fails = lambda job_id, what: None
    clock.now += LONGEST_PAUSE_S
    assert following.look() and not tracker.runs


def test_a_tracker_that_hangs_ends_its_process_and_says_where(jobs: TrackedJobs) -> None:
    tracker, hung = RecordingTracker(), threading.Event()
    job = jobs.begin()
    job.report(1, loss=1.0)
    told: list[str] = []

    def on_hang(problem: str) -> None:
        told.append(problem)
        hung.set()

    def hang(job_id: str, what: str) -> None:
        hung.wait()  # it returns only after it was found to hang

    tracker.fails = hang
    follower(jobs, tracker, on_hang=on_hang, call_limit_s=0.05).look()
    assert told == [f"recording hangs: beginning the run of {job.job_id} has not ended within 0.05 s"]


def test_a_process_that_hangs_ends_by_itself(jobs: TrackedJobs) -> None:
    jobs.begin().report(1, loss=1.0)
    script = """
import sys, threading
from pathlib import Path
from tests.unit.tracked_jobs import RecordingTracker, TrackedJobs, follower
tracker = RecordingTracker()
tracker.fails = lambda job_id, what: threading.Event().wait()
follower(TrackedJobs(Path(sys.argv[1])), tracker, call_limit_s=0.05).look()
"""
    argv = [sys.executable, "-c", script, str(jobs.settings.data_dir)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("error: recording hangs: beginning the run of ")
    progress = read_progress(progress_file(jobs.settings.data_dir, "recording"))
    assert progress is not None and [job.failures for job in progress.jobs.values()] == [1]


def test_the_status_says_what_a_tracker_has_not_taken(jobs: TrackedJobs, clock: Clock) -> None:
    tracker = RecordingTracker()
    job = jobs.begin()
    job.report(1, loss=1.0)
    settings = jobs.settings.model_copy(
        update={"trackers": jobs.settings.trackers.model_copy(update={"names": ["recording"]})}
    )

    def health() -> dict[str, Any]:
        return tracker_health(settings)[0].model_dump()

    assert health()["ok"] and health()["detail"] == "starts"

    def refuse(job_id: str, what: str) -> None:
        raise TimeoutError("the server is silent")

    tracker.fails = refuse
    assert not follower(jobs, tracker).look()
    assert health() == {
        "name": "recording",
        "ok": False,
        "detail": f"has not taken what is new of {job.job_id}, and gets it again: TimeoutError: the server is silent",
        "waiting": [job.job_id],
        "lost": {},
    }
    tracker.fails = lambda job_id, what: None
    clock.now += LONGEST_PAUSE_S
    assert follower(jobs, tracker).look()
    assert health() == {"name": "recording", "ok": True, "detail": "", "waiting": [], "lost": {}}
    progress_file(settings.data_dir, "recording").write_text("{")
    assert not health()["ok"] and "delete it" in health()["detail"]
