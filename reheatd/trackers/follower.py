"""Follows jobs, and sends a tracker what is new of them."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from reheatd.jobs.contracts import JobBase
from reheatd.jobs.open_lengths import has_open_length
from reheatd.jobs.store import JobReader, JobRecord
from reheatd.trackers.job_facts import job_points, outcome_of, run_info
from reheatd.trackers.progress import JobProgress, ProgressFile
from reheatd.trackers.tracker import Run, Tracker

logger = logging.getLogger(__name__)

CALL_LIMIT_S = 300.0
"""A call of a tracker that has not returned after this time hangs."""
LONGEST_PROBLEM = 500
CREDENTIALS = re.compile(r"://[^/\s@]+@")


class Follower:
    """Sends one tracker the jobs in a database.

    A failure costs only the job that it happened to, until that job's next attempt is due. After one, nobody knows the
    state of the tracker's package, so the process should end and another go on.

    Args:
        name: The tracker's name, for the log.
        adapters_dir: The folder of all versions.
        on_hang: Called in another thread with one line if a call of the tracker hangs; it should end the process.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        jobs: JobReader,
        state: ProgressFile,
        *,
        policy: str,
        adapters_dir: Path,
        on_hang: Callable[[str], None] | None = None,
        call_limit_s: float = CALL_LIMIT_S,
    ) -> None:
        self._name = name
        self._tracker = tracker
        self._jobs = jobs
        self._state = state
        self._policy = policy
        self._adapters_dir = adapters_dir
        self._on_hang = on_hang or end_process
        self._call_limit_s = call_limit_s
        self._runs: dict[str, Run] = {}
        self._unsafe: dict[str, JobProgress] = {}
        """What this process has sent to a tracker that does not keep it at once."""
        self.problem = ""
        """The last failure, in one line."""
        self._at: tuple[int, JobRecord, JobProgress] | None = None
        """The job that is being sent."""

    def look(self) -> bool:
        """Sends what is new; False if something failed, as `problem` says."""
        progress = self._state.progress
        jobs = self._jobs.since(progress.first)
        progress.advance([number for number, _, _ in jobs])
        for number, job_id, is_over in jobs:
            if not progress.is_open(number):
                continue
            record = self._jobs.get(job_id)
            if record is None or (record.spec is None and is_over):  # it was cancelled before it began
                progress.finish(number, job_id)
                self._state.save()
            elif record.spec is not None and not self._attend(number, record, record.spec):
                return False
        return True

    def pause(self) -> None:
        """Lets go of the runs whose jobs are not over, because the process ends."""
        for job_id, run in self._runs.items():
            with self._limited(f"pausing the run of {job_id}"):
                run.pause()
        self._runs.clear()

    def _attend(self, number: int, record: JobRecord, spec: JobBase) -> bool:
        """Sends what is new of a job; False if that failed."""
        job_id = record.job.job_id
        job = self._state.progress.jobs.get(job_id) or JobProgress()
        if job.retry_at > time.time():
            return True
        self._at = number, record, job
        try:
            is_done = self._send(record, spec, job)
        except Exception as error:  # a tracker is code of others, which may raise anything
            self._note_failure(in_one_line(error))
            return False
        self._at = None
        if is_done:
            self._state.progress.finish(number, job_id)
            self._state.save()
        elif job.failures:
            job.recovered()
            self._state.save()
        return True

    def _send(self, record: JobRecord, spec: JobBase, job: JobProgress) -> bool:
        """Sends what is new of a job, and returns whether the tracker needs it no more."""
        job_id, is_over = record.job.job_id, record.job.status.is_final
        points = job_points(spec, record.job.attempt)
        if not is_over and (not points or has_open_length(spec)):  # its configuration is not settled
            return False
        sent = job if self._tracker.keeps else self._unsafe.setdefault(job_id, JobProgress())
        news = sent.news(points)
        if not news and not is_over:
            return False
        run = self._runs.get(job_id)
        if run is None:
            with self._limited(f"beginning the run of {job_id}"):
                run = self._tracker.begin(run_info(record, spec, self._policy))
            self._runs[job_id] = run
        if news:
            with self._limited(f"logging {job_id}"):
                run.log(news)
            sent.took(news)
            self._state.progress.jobs[job_id] = job
            self._state.save()
        if is_over:
            with self._limited(f"finishing the run of {job_id}"):
                run.finish(outcome_of(record, self._adapters_dir))
            del self._runs[job_id]
            self._unsafe.pop(job_id, None)
        return is_over

    def _note_failure(self, problem: str) -> None:
        """Notes that the tracker failed with the job that is being sent."""
        if self._at is None:
            return
        number, record, job = self._at
        job_id, progress = record.job.job_id, self._state.progress
        self.problem = f"{self._name} has not taken what is new of {job_id}: {problem}"
        logger.warning("%s", self.problem)
        job.failed(problem)
        progress.jobs[job_id] = job
        if record.job.status.is_final and job.is_hopeless:
            progress.give_up(number, job_id)
            logger.error("%s is lost for %s, which did not take it for days: %s", job_id, self._name, problem)
        self._state.save()

    @contextmanager
    def _limited(self, what: str) -> Iterator[None]:
        """Ends the process if the block does not end."""
        timer = threading.Timer(self._call_limit_s, self._hangs, (what,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _hangs(self, what: str) -> None:
        problem = f"{what} has not ended within {self._call_limit_s:g} s"
        self._note_failure(problem)
        self._on_hang(f"{self._name} hangs: {problem}")


def in_one_line(error: Exception) -> str:
    """An error of a tracker without line breaks, and without the password that an address may hold."""
    return CREDENTIALS.sub("://", " ".join(f"{type(error).__name__}: {error}".split()))[:LONGEST_PROBLEM]


def end_process(problem: str) -> NoReturn:
    """Ends this process at once, whatever the tracker's threads do; the supervisor finds `problem` in the log."""
    print(f"error: {problem}", flush=True)
    os._exit(1)
