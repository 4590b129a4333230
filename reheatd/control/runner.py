"""One job from the queue to its end, or until a person has to decide: train, gate, swap.

Every step can be repeated. After a restart of the daemon, a runner continues the job where the ledger says it was.
"""

import asyncio
import logging
import time
from typing import TypeVar

from reheatd.adapters.unchanged import is_unchanged
from reheatd.control.dependencies import Dependencies
from reheatd.control.gates import accuracy_gate, change_gate, delivery_gate, entropy_gate, signal_gate
from reheatd.control.initiative import answers_collapse
from reheatd.control.ledger import ANSWERS
from reheatd.control.promotion import Promotion
from reheatd.control.publication import publish
from reheatd.control.rollout_adapters import RolloutAdapters
from reheatd.control.specifying import specify
from reheatd.control.specs import check_collapsed, lineage_fields
from reheatd.control.states import State, idle_state
from reheatd.control.training import Training
from reheatd.control.waiting import GateFailed, JobStopped, retry_while_unreachable, stop_if, unless_cancelled, warned
from reheatd.database import StateError, disk_explained
from reheatd.entropy.meter import Measurement
from reheatd.entropy.regime import Thresholds
from reheatd.errors import AdapterInvalidError, DeliveryError, ReheatdError
from reheatd.jobs.attempts import delete_checkpoints
from reheatd.jobs.contracts import (
    GateResult,
    ImportRequest,
    ImportSpec,
    JobResult,
    JobStatus,
    ReheatSpec,
    RLRequest,
    TrainingSpec,
    step_limit,
)
from reheatd.jobs.store import JobRecord
from reheatd.names import version_name
from reheatd.options import ProbeOptions

T = TypeVar("T")
logger = logging.getLogger(__name__)


class JobRunner:
    """Runs the job of `record`, which is the only copy of the job in memory while it runs."""

    def __init__(self, dependencies: Dependencies, record: JobRecord) -> None:
        self.record = record
        self.rollouts = RolloutAdapters(dependencies.slots, dependencies.ledger, dependencies.validate)
        self._dependencies = dependencies
        self._ledger = dependencies.ledger
        self._patience_s = dependencies.settings.engine.startup_timeout_s
        self._cancelled = asyncio.Event()
        self._measurement: Measurement | None = None
        """Measurement of the job's version at the gates; None if a restart of the daemon lost it."""
        if record.cancel_requested:
            self._cancelled.set()

    def cancel(self) -> None:
        """Asks the job to end as soon as it safely can."""
        self.record.cancel_requested = True
        self.record.job.phase = "cancelling"
        self.record.job.done = self.record.job.of = 0
        self._ledger.save(self.record)
        self._cancelled.set()

    async def run(self) -> None:
        """Runs the job to its end, and cleans up what it leaves in engine and broker.

        If a gate has no evidence and somebody is to be asked, the job ends here with the status `awaiting_approval`.
        Once it is approved it is queued, and another runner swaps its version in.

        Raises:
            StateError: A step cannot be recorded; another runner takes it again once it can.
        """
        job = self.record.job
        try:
            with disk_explained(self._dependencies.settings.data_dir):
                await self._steps()
        except StateError:
            raise
        except JobStopped as stopped:
            self.end(stopped.status, stopped.reason)
        except AdapterInvalidError as error:
            job.gates.append(_invalid(error))
            in_gates = job.status in (JobStatus.GATING, JobStatus.SWAPPING)
            self.end(JobStatus.REJECTED if in_gates else JobStatus.FAILED, error.message)
        except ReheatdError as error:
            self.end(JobStatus.FAILED, error.message)
        except Exception as error:
            logger.exception("%s failed", job.job_id)
            self.end(JobStatus.FAILED, f"internal error, see the daemon's log: {error!r}")
        await self._clean_up()

    async def _steps(self) -> None:
        """Takes the steps that the job has not taken yet."""
        job = self.record.job
        if job.status is JobStatus.QUEUED and job.version is not None:
            self._resume_approved()
        if job.status is JobStatus.QUEUED:
            await self._dispatch()
        if job.status is JobStatus.RUNNING:
            await self._train()
        while job.status is JobStatus.GATING:
            try:
                await self._gate()
            except (GateFailed, AdapterInvalidError) as failed:
                is_served = job.version is not None and job.version == self._dependencies.swaps.promoted
                if is_served or not await self._turn_to_next_candidate(failed):
                    raise
        if job.status is JobStatus.SWAPPING:
            await self._swap()

    async def _dispatch(self) -> None:
        """Decides the job's parent and specification, and records that the job runs."""
        dependencies, job = self._dependencies, self.record.job
        if isinstance(job.request, ImportRequest):
            raise RuntimeError(f"{job.job_id} is an import, which does not train")
        baseline = await unless_cancelled(
            self._cancelled, retry_while_unreachable(dependencies.monitor.ensure_baseline, self._patience_s)
        )
        probes = await self._probe_options()
        parent = dependencies.swaps.promoted
        monitor = dependencies.monitor
        # The policy may have been reheated while the job waited.
        check_collapsed(job.request, monitor.verdict, monitor.latest_estimate(parent), monitor.thresholds)
        spec = specify(dependencies, job.request, job_id=job.job_id, probes=probes, baseline=baseline)
        spec.output_dir.mkdir(parents=True, exist_ok=True)
        self.record.spec = spec
        job.parent_version = parent
        job.steps = step_limit(spec)
        state = State.REHEATING if job.kind == "reheat" else State.CONTINUING_RL
        why = f"{job.job_id} ({job.trigger}) dispatched from {version_name(parent)}"
        self._ledger.advance(self.record, JobStatus.RUNNING, state, why)

    async def _probe_options(self) -> ProbeOptions:
        """How the job measures entropy, which takes a measurement if the length of answers is still unknown."""
        finding = retry_while_unreachable(self._dependencies.monitor.probe_options, self._patience_s)
        return await unless_cancelled(self._cancelled, finding)

    async def _train(self) -> None:
        job = self.record.job
        training = Training(self._dependencies, self.record, self.rollouts, self._cancelled)
        result = await training.run(self._spec)
        if not isinstance(result, JobResult):
            raise RuntimeError(f"{job.job_id} trained, but its result is an import's")
        self.record.result = result
        job.phase = ""
        because = f" ({result.why_stopped})" if result.why_stopped else ""
        why = f"{job.job_id} trained {result.steps} steps, stopped by {result.stopped}{because}"
        self._ledger.advance(self.record, JobStatus.GATING, State.GATING, why)

    async def _gate(self) -> None:
        """Publishes the version, stages it and measures it; then it is to be swapped in, or somebody is asked.

        Raises:
            JobStopped: The job was cancelled, or a gate rejected the version.
        """
        dependencies, job, result = self._dependencies, self.record.job, self._result
        stop_if(self._cancelled)
        await self.rollouts.drop(self.record)
        version = job.version if job.version is not None else await self._publish(result)
        self._stop_if_overtaken()
        measuring = retry_while_unreachable(lambda: self._measure(version), self._patience_s)
        measured, thresholds = await unless_cancelled(self._cancelled, measuring)
        self._measurement = measured
        gate = dependencies.settings.gate
        undecided = self._judge(
            entropy_gate(self._spec, result, measured.estimate, self._floor(thresholds), gate),
            accuracy_gate(result.accuracy_before, result.accuracy_after, gate.accuracy_tolerance),
            *signal_gate(result),
        )
        self._stop_if_overtaken()
        name, unclear = version_name(version), ", ".join(undecided)
        if undecided and gate.no_evidence == "ask":
            why = f"{job.job_id} waits for approval of {name}: no evidence from the gate on {unclear}"
            self._ledger.advance(self.record, JobStatus.AWAITING_APPROVAL, self._idle_state(), why)
        else:
            why = f"{name} passed the gates" + (f" without evidence from the gate on {unclear}" if undecided else "")
            self._ledger.advance(self.record, JobStatus.SWAPPING, State.SWAPPING, why)

    async def _turn_to_next_candidate(self, failed: GateFailed | AdapterInvalidError) -> bool:
        """Rejects the present candidate, and goes on with the next; False if there is none."""
        job, result = self.record.job, self._result
        if not result.alternatives:
            return False
        following, *others = result.alternatives
        logger.warning("%s: %s is rejected (%s); %s is next", job.job_id, result.remedy, failed, following.remedy)
        if isinstance(failed, AdapterInvalidError):
            job.gates.append(self._of_candidate(_invalid(failed)))
        if job.version is not None:
            self._dependencies.versions.set_state(job.version, "rejected")
            with warned(f"{version_name(job.version)} stays loaded"):
                await self._dependencies.swaps.discard(job.version)
        self.record.result = following.model_copy(update={"alternatives": others})
        job.version = None
        self._ledger.save(self.record)
        return True

    def _floor(self, limits: Thresholds) -> float | None:
        """RL's floor. A round whose collapse is answered has none: the reheat keeps what it learned."""
        settings, is_round = self._dependencies.settings.control, self.record.job.trigger == "round"
        return None if is_round and answers_collapse(settings, self._ledger) else limits.collapsed

    def _resume_approved(self) -> None:
        """Goes on to the swap with a version that somebody approved for want of evidence.

        Raises:
            JobStopped: Another version was promoted meanwhile.
        """
        self._stop_if_overtaken()
        why = f"{version_name(self._version)} is approved"
        self._ledger.advance(self.record, JobStatus.SWAPPING, State.SWAPPING, why)

    async def _publish(self, result: JobResult) -> int:
        """Makes a version of the job's adapter.

        Raises:
            JobStopped: Training changed nothing.
        """
        await asyncio.to_thread(self._dependencies.validate, result.adapter_dir)
        if await asyncio.to_thread(is_unchanged, result.adapter_dir, self._spec.parent_adapter):
            self._judge(change_gate(self._spec.parent_version, result))
        fields = lineage_fields(self._spec, result, self._dependencies.policy)
        return await publish(self._dependencies, self.record, result.adapter_dir, result.report_dir, fields)

    async def _measure(self, version: int) -> tuple[Measurement, Thresholds]:
        monitor = self._dependencies.monitor
        name = await self._dependencies.swaps.stage(version)
        await monitor.ensure_baseline()
        measured = await monitor.measure_version(name)
        return measured, _present(monitor.thresholds, "baseline", self.record)

    async def _swap(self) -> None:
        """Proves and promotes the version, unless it was promoted before a restart of the daemon."""
        dependencies, job = self._dependencies, self.record.job
        version = self._version
        promotion = Promotion(dependencies, self.record, self._cancelled, self._stop_if_overtaken)
        if dependencies.swaps.promoted == version:
            promoted_at, detail = time.time(), "proved before the daemon was restarted"
        else:
            try:
                promoting = retry_while_unreachable(lambda: promotion.promote(version), self._patience_s)
                promoted_at, detail = await promoting
            except DeliveryError as error:
                self._judge(delivery_gate(False, error.message))
                raise
        self._judge(delivery_gate(True, detail))
        if self._cancelled.is_set():
            await promotion.take_back(version, promoted_at)
        follows = job.trigger in ANSWERS and dependencies.settings.control.rl == "after_reheat"
        self._ledger.succeed(
            self.record,
            version,
            f"{version_name(version)} by {job.job_id} is promoted",
            promoted_at=promoted_at,
            follow_up=RLRequest(seed=job.request.seed) if follows else None,
        )
        if self._measurement is None or dependencies.swaps.promoted != version:
            dependencies.monitor.trigger()
        else:
            dependencies.monitor.adopt(version, self._measurement)

    def _judge(self, *gates: GateResult) -> list[str]:
        """Records the results of gates, and returns the names of those that have no evidence.

        Raises:
            GateFailed: A gate failed.
        """
        self.record.job.gates += [self._of_candidate(gate) for gate in gates]
        failed = [gate for gate in gates if gate.outcome == "failed"]
        if failed:
            raise GateFailed(JobStatus.REJECTED, "; ".join(f"gate {gate.name}: {gate.detail}" for gate in failed))
        return [gate.name for gate in gates if gate.outcome == "no_evidence"]

    def _of_candidate(self, gate: GateResult) -> GateResult:
        """The gate's result with the candidate's name, in a job that made several."""
        spec, result = self.record.spec, self._result
        if not isinstance(spec, ReheatSpec) or spec.remedy != "auto":
            return gate
        return gate.model_copy(update={"detail": f"{result.remedy}: {gate.detail}"})

    def settle_if_overtaken(self) -> None:
        """Ends a job whose version waits for approval, if a promotion by request has decided on that version."""
        try:
            self._stop_if_overtaken()
            if self._dependencies.swaps.promoted == self.record.job.version:
                self._ledger.finish(self.record, JobStatus.SUCCEEDED, None, self._idle_state())
        except JobStopped as stopped:
            self.end(stopped.status, stopped.reason)

    def _stop_if_overtaken(self) -> None:
        """Stops the job if another version than its parent or its own is promoted now.

        Somebody decided to promote that version while the job ran, and a job does not overrule that.

        Raises:
            JobStopped: Another version is promoted.
        """
        promoted, parent = self._dependencies.swaps.promoted, self.record.job.parent_version
        if promoted not in (parent, self.record.job.version):
            raise JobStopped(
                JobStatus.REJECTED,
                f"{version_name(promoted)} was promoted meanwhile, but the job started from {version_name(parent)}; "
                f"`reheatd adapters promote {self.record.job.version}` promotes the job's version all the same",
            )

    def end(self, status: JobStatus, reason: str) -> None:
        """Ends the job without success; a version that it made is rejected with it.

        But a version that somebody promoted meanwhile is served, and a job does not overrule that.
        """
        version = self.record.job.version
        is_served = version is not None and version == self._dependencies.swaps.promoted
        if is_served and status is JobStatus.REJECTED:
            logger.warning("%s stays promoted, as somebody asked, though: %s", version_name(self._version), reason)
            self._ledger.finish(self.record, JobStatus.SUCCEEDED, None, self._idle_state())
            return
        logger.warning("%s %s: %s", self.record.job.job_id, status, reason)
        if version is not None and not is_served and status in (JobStatus.REJECTED, JobStatus.CANCELLED):
            self._dependencies.versions.set_state(version, "rejected")
        self._ledger.finish(self.record, status, reason, self._idle_state())

    def _idle_state(self) -> State:
        return idle_state(self._dependencies.monitor.verdict)

    async def _clean_up(self) -> None:
        """Frees what the job holds in engine and broker.

        An engine or broker that cannot be reached now forgets the job when it restarts.
        """
        job = self.record.job
        with warned(f"rollout adapters of {job.job_id} stay loaded"):
            await self.rollouts.drop(self.record)
        if self.record.spec is not None:
            await asyncio.to_thread(delete_checkpoints, self.record.spec)
        if job.status is JobStatus.SUCCEEDED:
            return
        if self.record.spec is not None and job.status.is_final:
            with warned(f"a worker may still run {job.job_id}"):
                await self._dependencies.dispatcher.cancel(job.job_id)
        if job.version is not None and job.version != self._dependencies.swaps.promoted:
            with warned(f"{version_name(job.version)} stays loaded"):
                await self._dependencies.swaps.discard(job.version)

    @property
    def _spec(self) -> TrainingSpec:
        spec = _present(self.record.spec, "specification", self.record)
        if isinstance(spec, ImportSpec):
            raise RuntimeError(f"{spec.job_id} is an import, which does not train")
        return spec

    @property
    def _result(self) -> JobResult:
        return _present(self.record.result, "result", self.record)

    @property
    def _version(self) -> int:
        return _present(self.record.job.version, "version", self.record)


def _present(value: T | None, what: str, record: JobRecord) -> T:
    if value is None:
        raise RuntimeError(f"job {record.job.job_id} is {record.job.status} without a {what}")
    return value


def _invalid(error: AdapterInvalidError) -> GateResult:
    return GateResult(name="validation", outcome="failed", detail=error.message)
