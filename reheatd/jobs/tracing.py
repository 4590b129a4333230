"""The spans of jobs in the daemon: one for the job and, below, one for each status that it goes through.

A worker goes on below the span of `running`. The job's record keeps the trace, so that a daemon that was restarted, or
a job that waited for approval, goes on in the same trace with another span for the job.
"""

from typing import TYPE_CHECKING

from reheatd.jobs.contracts import JobStatus
from reheatd.jobs.store import JobRecord

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer


class JobTraces:
    """Follows the statuses of jobs.

    Args:
        tracer: What makes the spans.
    """

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer
        self._open: dict[str, JobTrace] = {}

    def follow(self, record: JobRecord) -> None:
        """Notes the status of a job. Call this before the record is stored, because it gets the trace's context."""
        job = record.job
        trace = self._open.get(job.job_id)
        if job.status.is_final or job.status is JobStatus.AWAITING_APPROVAL:
            if trace is not None:
                trace.end(record)
                del self._open[job.job_id]
        elif job.status is not JobStatus.QUEUED:
            if trace is None:
                trace = self._open[job.job_id] = JobTrace(self._tracer, record)
            trace.turn_to(job.status)

    def headers(self, job_id: str) -> dict[str, str]:
        """The headers of the message to a worker, by which it goes on in the job's trace; empty if there is none."""
        trace = self._open.get(job_id)
        return {} if trace is None else trace.headers()


class JobTrace:
    """The spans of one job, from when it is dispatched to its end or until somebody has to approve its version."""

    def __init__(self, tracer: "Tracer", record: JobRecord) -> None:
        from opentelemetry.trace import set_span_in_context

        from reheatd.tracing.context import TRACEPARENT, context_of, continue_in

        job = record.job
        before = record.traceparent
        created = None if before is not None else int(job.created_at * 1e9)
        self._tracer = tracer
        self._job = tracer.start_span(
            f"job {job.kind}",
            context=context_of({} if before is None else {TRACEPARENT: before}),
            start_time=created,
            attributes={
                "reheatd.job_id": job.job_id,
                "reheatd.job_kind": job.kind,
                "reheatd.trigger": job.trigger,
                "reheatd.parent_version": job.parent_version,
            },
        )
        self._context = set_span_in_context(self._job)
        self._status: Span | None = None
        if created is not None:
            tracer.start_span(JobStatus.QUEUED.value, self._context, start_time=created).end()
            headers: dict[str, str] = {}
            continue_in(self._job, headers)
            record.traceparent = headers[TRACEPARENT]

    def turn_to(self, status: JobStatus) -> None:
        """Ends the span of the status before, and begins that of `status`."""
        if self._status is not None:
            self._status.end()
        self._status = self._tracer.start_span(status.value, self._context)

    def headers(self) -> dict[str, str]:
        from reheatd.tracing.context import continue_in

        headers: dict[str, str] = {}
        continue_in(self._status or self._job, headers)
        return headers

    def end(self, record: JobRecord) -> None:
        """Ends the spans with what became of the job."""
        from opentelemetry.trace import StatusCode

        job = record.job
        self._job.set_attribute("reheatd.status", job.status.value)
        self._job.set_attribute("reheatd.attempts", job.attempt)
        if job.version is not None:
            self._job.set_attribute("reheatd.version", job.version)
        if job.status in (JobStatus.FAILED, JobStatus.REJECTED):
            self._job.set_status(StatusCode.ERROR, job.error)
        if self._status is not None:
            self._status.end()
        self._job.end()
