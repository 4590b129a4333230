"""The part of a job that happens on a worker, as the daemon sees it."""

import asyncio
import logging
import time

from reheatd.control.dependencies import Dependencies
from reheatd.control.rollout_adapters import RolloutAdapters
from reheatd.control.waiting import JobStopped, abandon, retry_while_unreachable, unless_cancelled
from reheatd.errors import WorkerLostError
from reheatd.jobs.contracts import ImportResult, ImportSpec, JobEvent, JobResult, JobStatus, TrainingSpec
from reheatd.jobs.open_lengths import with_length
from reheatd.jobs.rollout_length import RolloutLength
from reheatd.jobs.store import JobRecord
from reheatd.process.broker import BrokerError

Result = JobResult | ImportResult
logger = logging.getLogger(__name__)

CANCEL_GRACE_S = 20.0
"""How long a worker may take to react to a cancellation before the daemon kills its process, in seconds."""
WORKER_CHECK_S = 5.0
SAVE_EVERY_S = 2.0
"""Least time between two records of a job's progress, in seconds."""
WAITING = "waiting for a worker"
NO_WORKER = "waiting for a worker: none is connected; start one with `reheatd worker`"


class Training:
    """Hands a dispatched job to a worker and follows it, even if it was handed over before a restart of the daemon."""

    def __init__(
        self, dependencies: Dependencies, record: JobRecord, rollouts: RolloutAdapters, cancelled: asyncio.Event
    ) -> None:
        self._dependencies = dependencies
        self._dispatcher = dependencies.dispatcher
        self._ledger = dependencies.ledger
        self._learning = dependencies.learning
        self._max_attempts = dependencies.settings.control.max_attempts
        self._patience_s = dependencies.settings.engine.startup_timeout_s
        # An embedded broker serves only this daemon's own workers, and they stop with the daemon.
        self._workers_since = dependencies.started_at if dependencies.settings.broker.url is None else None
        self._record = record
        self._is_unsaved, self._saved_at = False, 0.0
        self._rollouts = rollouts
        self._cancelled = cancelled

    async def run(self, spec: TrainingSpec | ImportSpec) -> Result:
        """Runs the job on a worker and returns the worker's result. If its worker dies, another worker resumes the job.

        Raises:
            JobStopped: The job failed or was cancelled.
            WorkerLostError: The last of `control.max_attempts` workers died.
        """
        while True:
            await self._begin(spec)
            try:
                return await self._attend(spec)
            except WorkerLostError as lost:
                await self._give_up_worker(lost)
                spec = self._record.spec or spec  # with the length of rollouts, if the lost worker has found one

    async def _attend(self, spec: TrainingSpec | ImportSpec) -> Result:
        """Follows the job until this attempt ends, and returns the worker's result."""
        following = asyncio.create_task(self._follow())
        waiting = asyncio.create_task(self._wait_for_worker(spec))
        cancelling = asyncio.create_task(self._cancelled.wait())
        try:
            await asyncio.wait({following, cancelling}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                await self._stop_worker(following)
            return following.result()
        finally:
            await abandon(following, waiting, cancelling)
            if self._is_unsaved:
                self._save()

    async def _begin(self, spec: TrainingSpec | ImportSpec) -> None:
        await unless_cancelled(self._cancelled, retry_while_unreachable(self._restore_rollouts, self._patience_s))
        # After a restart, a job that no worker has begun is submitted again: in a crash, the broker may have lost its
        # last second of writes.
        if not self._record.submitted or not self._record.begun:
            attempt = self._record.job.attempt
            submitting = retry_while_unreachable(lambda: self._dispatcher.submit(spec, attempt), self._patience_s)
            await unless_cancelled(self._cancelled, submitting)
            self._record.submitted = True
            self._ledger.save(self._record)

    async def _give_up_worker(self, lost: WorkerLostError) -> None:
        """Makes the job ready for the next attempt; of this attempt, only the checkpoint remains.

        Raises:
            JobStopped: The job was cancelled in the meantime.
            WorkerLostError: This was the last attempt.
        """
        job = self._record.job
        if self._cancelled.is_set():
            raise JobStopped(JobStatus.CANCELLED, "cancelled") from lost
        if job.attempt == self._max_attempts:
            raise lost
        logger.warning("%s; attempt %d of %d resumes the job", lost.message, job.attempt + 1, self._max_attempts)
        attempt = job.attempt
        terminating = retry_while_unreachable(lambda: self._dispatcher.terminate(job.job_id, attempt), self._patience_s)
        await unless_cancelled(self._cancelled, terminating)
        await self._rollouts.drop(self._record)
        job.attempt += 1
        job.phase = ""
        self._record.submitted = self._record.begun = False
        self._ledger.save(self._record)

    async def _restore_rollouts(self) -> None:
        await self._rollouts.restore(self._record)

    async def _follow(self) -> Result:
        """Takes events as they come.

        The last event is not recorded here, because it must be recorded together with the status that it leads to.
        """
        events = self._dispatcher.events(
            self._record.job.job_id,
            self._record.event_id,
            attempt=self._record.job.attempt,
            begun=self._record.begun,
            workers_since=self._workers_since,
        )
        async for event_id, event in events:
            if event.kind == "succeeded" and event.result is not None:
                return event.result
            if event.kind == "failed":
                raise JobStopped(JobStatus.FAILED, event.error or "the worker gave no reason; see its log")
            if event.kind == "cancelled":
                raise JobStopped(JobStatus.CANCELLED, "cancelled")
            if event.rollouts is not None:
                self._dependencies.on_rollouts(event.rollouts)
            if event.length is not None:
                self._keep_length(event.length)
            self._show(event_id, event)
        raise JobStopped(JobStatus.FAILED, "the worker reported no result; see its log")

    def _keep_length(self, found: RolloutLength) -> None:
        """Keeps a length of rollouts for the jobs to come, and puts it into this job's own specification."""
        spec = self._record.spec
        if spec is None:
            raise RuntimeError(f"{self._record.job.job_id} runs without a specification")
        self._dependencies.lengths.save(spec.task, spec.probes.digest, found)
        self._record.spec = with_length(spec, found.tokens)

    def _show(self, event_id: str, event: JobEvent) -> None:
        job, is_first = self._record.job, not self._record.begun
        self._record.event_id = event_id
        self._record.begun = True
        job.started_at = job.started_at or event.time
        if not self._cancelled.is_set():
            job.phase = event.phase or "starting"
            job.done, job.of = event.done, event.of
        job.step = event.step
        job.steps = event.steps or job.steps
        job.metrics.update(event.metrics)
        if job.kind == "rl":
            self._learning.add(job.job_id, job.parent_version, event.step, event.metrics)
        # A commit waits for the disk, and streams wait with it. After a crash, the broker tells again what was not
        # recorded; only windows of rollouts must not come twice.
        self._is_unsaved = True
        if is_first or event.rollouts is not None or time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self._save()
        else:
            self._ledger.progressed(self._record)

    def _save(self) -> None:
        self._ledger.save(self._record)
        self._is_unsaved, self._saved_at = False, time.monotonic()

    async def _wait_for_worker(self, spec: TrainingSpec | ImportSpec) -> None:
        """Shows what the job waits for, until a worker has begun it, and keeps it in the workers' queue."""
        job = self._record.job
        while not self._record.begun and not self._cancelled.is_set():
            try:
                if not await self._dispatcher.is_under_way(job.job_id, job.attempt):
                    logger.warning("the broker has lost the message of %s; it is sent again", job.job_id)
                    await self._dispatcher.submit(spec, job.attempt)
                phase = WAITING if await self._dispatcher.connected_workers() else NO_WORKER
            except BrokerError as error:
                phase = f"waiting for the broker: {error.message}"
            if not self._record.begun and not self._cancelled.is_set() and phase != job.phase:
                job.phase = phase
                self._ledger.save(self._record)
            await asyncio.sleep(WORKER_CHECK_S)

    async def _stop_worker(self, following: "asyncio.Task[Result]") -> None:
        """Asks the worker to stop, and waits until it has ended the job by itself.

        Raises:
            JobStopped: The worker had not begun, or it did not react and was killed.
        """
        job = self._record.job
        await self._dispatcher.cancel(job.job_id)
        if self._record.begun:
            await asyncio.wait({following}, timeout=CANCEL_GRACE_S)
            if following.done():
                return
        await self._dispatcher.terminate(job.job_id, job.attempt)
        raise JobStopped(JobStatus.CANCELLED, "cancelled")
