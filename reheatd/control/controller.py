"""The control loop: takes verdicts and requests, and runs jobs one at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from reheatd.adapters.swap import SwapResult
from reheatd.control.dependencies import Dependencies
from reheatd.control.import_runner import ImportRunner, remove_import, remove_leftovers
from reheatd.control.initiative import Initiative
from reheatd.control.journal import Pause
from reheatd.control.retention import Retention
from reheatd.control.runner import JobRunner
from reheatd.control.specifying import preview
from reheatd.control.specs import check_collapsed, check_request
from reheatd.control.states import IDLE, State, idle_state
from reheatd.database import StateError
from reheatd.entropy.windows import Window
from reheatd.errors import ConflictError, JobWaitsError, QueueFullError
from reheatd.jobs.contracts import Job, JobRequest, JobStatus, ReheatRequest, TrainingRequest, TrainingSpec
from reheatd.jobs.store import JobRecord
from reheatd.names import version_name

logger = logging.getLogger(__name__)

STATE_RETRY_S = 5.0
"""Pause before a step that could not be recorded, for want of disk space, is taken again."""


class Controller:
    """Owns the control state, and decides which job runs.

    Every decision is in the ledger before it is acted on, so that `run` can continue after a crash. Users' jobs run in
    the order of their requests. While there are none, `Initiative` says what the daemon starts by itself.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._settings = dependencies.settings.control
        self._ledger = dependencies.ledger
        self._wake = asyncio.Event()
        self._runner: JobRunner | None = None
        self._initiative = Initiative(dependencies)
        self.retention = Retention(dependencies)
        remove_leftovers(dependencies.settings, dependencies.ledger)
        self._record_promotion()

    @property
    def state(self) -> State:
        return self._ledger.state

    async def run(self) -> None:
        """Runs until cancelled. A job that is running then continues after the next start."""
        while True:
            self._wake.clear()
            try:
                await self._run_next()
            except StateError as error:
                logger.error("%s; the control loop goes on once that is possible", error.message)
                await asyncio.sleep(STATE_RETRY_S)

    async def _run_next(self) -> None:
        """Runs the next job, or waits for one.

        Raises:
            StateError: A step cannot be recorded. It is taken again when this is called again.
        """
        record = self._next()
        if record is None:
            await self._sleep()
            return
        runner = ImportRunner if record.job.kind == "import" else JobRunner
        self._runner = runner(self._dependencies, record)
        try:
            await self._runner.run()
        finally:
            self._runner = None
        for pause in self.pauses:
            logger.warning("%s are paused: %s", pause.what, pause.why)

    def on_verdict(self, window: Window) -> None:
        """Takes a window of the promoted version; called as `EntropyMonitor.on_verdict`."""
        state = self.state
        if state not in IDLE:
            return
        name, estimate = version_name(window.version), window.estimate
        figures = (
            f"entropy of {name} is {estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}] nats per token, "
            f"{window.ratio:.0%} of the baseline"
        )
        fitting = idle_state(window.verdict)
        if fitting is not state:
            why = f"{'recovered' if fitting is State.SERVING else window.verdict}: {figures}"
            self._ledger.change_idle_state(fitting, why, window.version)
            logger.log(logging.INFO if fitting is State.SERVING else logging.WARNING, "%s", why)
        self._wake.set()

    def submit(self, request: JobRequest, *, job_id: str | None = None) -> Job:
        """Queues a user's job.

        Args:
            job_id: The id of a job that has files already; default: a new one.

        Raises:
            BadInputError: The request does not fit this policy, or asks for a reheat of one that has neither collapsed
                nor stalled; `param` names the option.
            NotFoundError: There is no version that the request names.
            QueueFullError: `control.max_queued` jobs are waiting already.
        """
        self._check(request)
        self.check_queue()
        parent = 0 if request.kind == "import" else self._dependencies.swaps.promoted
        record = self._ledger.create(request, "manual", JobStatus.QUEUED, parent, job_id=job_id)
        self._wake.set()
        return record.job

    async def preview(self, request: TrainingRequest) -> TrainingSpec:
        """The specification of the job that `submit` would queue, if it started now. Nothing is started.

        Raises:
            ConflictError: The daemon has not measured yet what a job needs.
            BadInputError, NotFoundError: As for `submit`.
        """
        self._check(request)
        return await preview(self._dependencies, request)

    def validate(self, adapter: Path) -> None:
        """Checks that the adapter in a folder fits the policy; call it in a thread.

        Raises:
            AdapterInvalidError: It does not.
        """
        self._dependencies.validate(adapter)

    def check_queue(self) -> None:
        """Checks that one more job may wait.

        Raises:
            QueueFullError: `control.max_queued` jobs are waiting already.
        """
        queued = [job for job in self.waiting() if job.status is JobStatus.QUEUED]
        if len(queued) >= self._settings.max_queued:
            raise QueueFullError(
                f"{len(queued)} jobs are queued, which is the limit (control.max_queued); wait, or cancel one with "
                "`reheatd jobs cancel`"
            )

    def approve(self, job_id: str) -> Job:
        """Approves a job that waits for approval, so that it is queued.

        A job that was trained already, and on which a gate had no evidence, comes next; its version is then promoted.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job does not wait for approval.
        """
        record = self._record(job_id)
        if record.job.status is not JobStatus.AWAITING_APPROVAL:
            raise ConflictError(f"job {job_id} is {record.job.status}; only a job awaiting approval can be approved")
        record.job.status = JobStatus.QUEUED
        self._ledger.save(record)
        self._wake.set()
        return record.job

    def cancel(self, job_id: str) -> Job:
        """Cancels a job: at once if it is waiting, else as soon as its worker or its gates can stop.

        A version that waits for approval is rejected.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job is over already.
        """
        record = self._record(job_id)
        if record.job.status.is_final:
            raise ConflictError(f"job {job_id} is over already: {record.job.status}")
        runner, waits = self._runner, record.job.status is JobStatus.AWAITING_APPROVAL
        if runner is not None and runner.record is record and not waits:
            runner.cancel()
        elif record.job.status in (JobStatus.QUEUED, JobStatus.AWAITING_APPROVAL):
            JobRunner(self._dependencies, record).end(JobStatus.CANCELLED, "cancelled")
            if record.job.kind == "import":
                remove_import(self._dependencies.settings, job_id)
        else:
            record.cancel_requested = True
            self._ledger.save(record)
        self._wake.set()
        return record.job

    async def promote(self, version: int) -> SwapResult:
        """Promotes a version at a user's request; it is staged and proven like any other.

        If no engine serves, that happens when one is back.

        Raises:
            NotFoundError: There is no such version.
            ConflictError: The version is promoted already, or a job's version is being swapped in.
            DeliveryError, EngineError: A step before the flip failed; the old version keeps serving.
        """
        return await self._change(
            lambda: self._dependencies.swaps.promote(version, without_engine=True), "promoted by request"
        )

    async def rollback(self) -> SwapResult:
        """Promotes the version that was promoted before the present one; raises the same errors as `promote`."""
        return await self._change(self._dependencies.swaps.rollback, "rolled back by request")

    def on_fallback(self, version: int, reason: str) -> None:
        """Records that `version` has taken the place of the promoted one; called as `SwapManager.on_fallback`."""
        self._ledger.promoted(version, reason)
        self._dependencies.monitor.trigger()
        self._wake.set()

    def is_current(self, job_id: str, attempt: int) -> bool:
        """Whether the job is being trained at this moment, in this attempt."""
        job = self.current_job
        if job is None or job.status is not JobStatus.RUNNING:
            return False
        return (job.job_id, job.attempt) == (job_id, attempt)

    async def load_rollout_adapter(self, job_id: str, path: Path, step: int, *, attempt: int | None = None) -> str:
        """Loads a running job's snapshot in `path`, and returns the model name to sample from.

        Args:
            attempt: The attempt whose worker asks; None if nobody knows.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job or the attempt is not running, or no adapter slot is free.
            JobWaitsError: The daemon goes on with the job later.
            BadInputError: `path` does not hold an adapter of this policy inside the job's folder.
        """
        runner = self._running(job_id)
        return await runner.rollouts.load(runner.record, path, step, attempt=attempt)

    async def drop_rollout_adapters(self, job_id: str) -> None:
        """Unloads the snapshots that `load_rollout_adapter` loaded.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job is not running.
            JobWaitsError: The daemon goes on with the job later.
        """
        runner = self._running(job_id)
        await runner.rollouts.drop(runner.record)

    @property
    def current_job(self) -> Job | None:
        """The job that is being run; None if there is none."""
        if self._runner is not None:
            job = self._runner.record.job
            return None if job.status.is_final else job
        record = self._ledger.jobs.active()
        return record.job if record else None

    def job(self, job_id: str) -> Job:
        """A job by its id.

        Raises:
            NotFoundError: There is no such job.
        """
        return self._record(job_id).job

    def waiting(self) -> list[Job]:
        """Jobs that are queued or await approval, the next one first."""
        current = self.current_job
        jobs = [record.job for record in self._ledger.jobs.waiting()]
        return [job for job in jobs if current is None or job.job_id != current.job_id]

    @property
    def cooldown_remaining_s(self) -> float:
        """Seconds until the daemon may start a reheat by itself; 0 if it may start one now."""
        return self._initiative.cooldown_remaining_s

    @property
    def pauses(self) -> list[Pause]:
        """What the daemon does not start by itself any more until `resume` is called."""
        return self._initiative.pauses

    def resume(self) -> list[Pause]:
        """Lets the daemon start by itself again what was paused, and returns what that was."""
        resumed = self.pauses
        if resumed:
            self._ledger.resume()
            self._wake.set()
        return resumed

    def _next(self) -> JobRecord | None:
        """The job to run now. If none is queued, the daemon may start one by itself."""
        self._settle_overtaken()
        jobs = self._ledger.jobs
        active = jobs.active()
        if active is not None:
            return active
        queued = [record for record in jobs.waiting() if record.job.status is JobStatus.QUEUED]
        if self.state not in IDLE and not (queued and queued[0].job.trigger == "follow_up"):
            self._ledger.transition(self._idle_state(), "the job that was to follow is gone")
        if queued:
            return queued[0]
        return self._initiative.next_job()

    def _settle_overtaken(self) -> None:
        """Ends the jobs whose version waits for approval, once that version or another has been promoted by request."""
        for record in self._ledger.jobs.waiting():
            if record.job.version is not None and record.job.status is JobStatus.AWAITING_APPROVAL:
                JobRunner(self._dependencies, record).settle_if_overtaken()

    async def _sleep(self) -> None:
        """Sleeps until something happens, or until a cool-down is over."""
        try:
            async with asyncio.timeout(self._initiative.due_in_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _change(self, swap: Callable[[], Awaitable[SwapResult]], why: str) -> SwapResult:
        async with self._dependencies.swap_lock:
            if self.state is State.SWAPPING:
                current = self.current_job
                raise ConflictError(
                    f"{current.job_id if current else 'a job'} is being swapped in; try again in a moment"
                )
            swapped = await swap()
            name = version_name(swapped.to_version)
            self._ledger.promoted(swapped.to_version, f"{name} {why}")
            if self.state in IDLE and self.state is not State.SERVING:
                self._ledger.change_idle_state(State.SERVING, f"{name} {why}", swapped.to_version)
        self._settle_overtaken()
        self._dependencies.monitor.trigger()
        self._wake.set()
        return swapped

    def _check(self, request: JobRequest) -> None:
        """Checks a user's request; raises as `submit`, but for the queue."""
        monitor = self._dependencies.monitor
        baseline = monitor.baseline
        check_request(
            request,
            self._dependencies.settings,
            vocabulary=self._dependencies.policy.vocabulary,
            baseline=baseline and baseline.mean,
            default_target=monitor.thresholds and monitor.thresholds.target,
        )
        if isinstance(request, ReheatRequest) and request.towards:
            self._dependencies.versions.get(request.towards)
        check_collapsed(
            request, monitor.verdict, monitor.latest_estimate(self._dependencies.swaps.promoted), monitor.thresholds
        )

    def _record_promotion(self) -> None:
        """Records the promotion after which the daemon ended before it could; a job records its own."""
        promoted, active = self._dependencies.swaps.promoted, self._ledger.jobs.active()
        if promoted != self._ledger.promoted_version and (active is None or active.job.version != promoted):
            self._ledger.promoted(promoted, f"{version_name(promoted)} was promoted just before the daemon ended")

    def _idle_state(self) -> State:
        return idle_state(self._dependencies.monitor.verdict)

    def _record(self, job_id: str) -> JobRecord:
        if self._runner is not None and self._runner.record.job.job_id == job_id:
            return self._runner.record
        return self._ledger.jobs.get(job_id)

    def _running(self, job_id: str) -> JobRunner:
        record = self._record(job_id)
        if record.job.status is not JobStatus.RUNNING:
            raise ConflictError(f"job {job_id} is {record.job.status}, not running", param="job_id")
        if self._runner is None or self._runner.record is not record:
            raise JobWaitsError(f"job {job_id} goes on in a moment, or when the daemon starts again", param="job_id")
        return self._runner
