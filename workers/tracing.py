"""The spans of a job in its worker: one for the attempt and, below, one for each phase."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reheatd.config_tracing import TracingSection
from reheatd.tracing.setup import start_tracing
from workers.progress import ProgressChannel

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer


@contextmanager
def traced_attempt(
    job_id: str, attempt: int, headers: Mapping[str, str]
) -> Iterator[Callable[[ProgressChannel], ProgressChannel]]:
    """Traces an attempt at a job, if OpenTelemetry's variables name a receiver. All spans are sent before it ends.

    Args:
        headers: Those of the task's message, which name the daemon's span.

    Yields:
        What gives a channel whose phases are traced for a channel. If nothing is traced, it gives the same one.
    """
    tracing = start_tracing(TracingSection(), "reheatd-worker")
    if tracing is None:
        yield lambda channel: channel
        return
    from opentelemetry.trace import StatusCode

    from reheatd.tracing.context import context_of

    attributes = {"reheatd.job_id": job_id, "reheatd.attempt": attempt}
    span = tracing.tracer.start_span("attempt", context_of(headers), attributes=attributes)
    watched: list[PhaseSpans] = []

    def watch(channel: ProgressChannel) -> ProgressChannel:
        watched.append(PhaseSpans(channel, tracing.tracer, span))
        return watched[-1]

    try:
        yield watch
    except BaseException as error:
        span.record_exception(error)
        span.set_status(StatusCode.ERROR, str(error))
        raise
    finally:
        for phases in watched:
            phases.close()
        span.end()
        tracing.close()


class PhaseSpans:
    """A channel of progress that makes a span of every phase in every step. Reports come one at a time."""

    def __init__(self, channel: ProgressChannel, tracer: "Tracer", attempt: "Span") -> None:
        from opentelemetry.trace import set_span_in_context

        self._channel = channel
        self._tracer = tracer
        self._context = set_span_in_context(attempt)
        self._place: tuple[str, int] | None = None
        self._span: Span | None = None

    def progress(self, phase: str, step: int, steps: int, metrics: dict[str, float], **more: Any) -> None:
        """Reports as `ProgressChannel.progress` does; with another phase or step, another span begins."""
        self._channel.progress(phase, step, steps, metrics, **more)
        place = phase.partition(";")[0], step
        if place != self._place:
            self.close()
            self._place = place
            self._span = self._tracer.start_span(place[0], self._context, attributes={"reheatd.step": step})
        if self._span is not None:
            self._span.set_attributes({f"reheatd.{name}": value for name, value in metrics.items()})

    def is_cancelled(self) -> bool:
        return self._channel.is_cancelled()

    def close(self) -> None:
        """Ends the span of the present phase."""
        if self._span is not None:
            self._span.end()
            self._span = None
