"""The spans of a request: one for all of it and, below, one for each time that an engine is asked."""

import time
from typing import TYPE_CHECKING

from starlette.requests import Request

from reheatd.metrics.traffic import BROKEN, Watch

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer


class RequestTraces:
    """Begins the trace of every request.

    Args:
        tracer: What makes the spans.
    """

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer

    def begin(self, request: Request, watch: Watch) -> None:
        """Begins a trace, or goes on with the one that the client's `traceparent` names; it ends with `watch`."""
        trace = RequestTrace(self._tracer, request, watch.route)
        request.state.trace = trace
        watch.on_close = trace.end


class RequestTrace:
    """The spans of one request."""

    def __init__(self, tracer: "Tracer", request: Request, route: str) -> None:
        from opentelemetry.trace import SpanKind

        from reheatd.tracing.context import context_of

        self.engine: str | None = None
        """Name of the engine that answers."""
        self.version: str | None = None
        """The version that answers."""
        self.job: str | None = None
        """The job that asks; None for a client."""
        self.usage: dict[str, int] = {}
        """The engine's count of tokens, `prompt_tokens` and `completion_tokens`."""
        self._tracer = tracer
        self._whole = tracer.start_span(
            f"{request.method} {route}",
            context=context_of(request.headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": request.method, "http.route": route},
        )
        self._asking: Span | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether anything is kept of the request; False if it was not sampled."""
        return self._whole.is_recording()

    def ask(self, headers: dict[str, str]) -> None:
        """Begins the span of an engine's work, and puts it into the headers of the request to that engine."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        from reheatd.tracing.context import continue_in

        if self._asking is not None:
            self._asking.end()
        self._asking = self._tracer.start_span("engine", set_span_in_context(self._whole), SpanKind.CLIENT)
        continue_in(self._asking, headers)

    def end(self, watch: Watch) -> None:
        """Ends the spans with what became of the request."""
        from opentelemetry.trace import StatusCode

        served = {"reheatd.version": self.version, "reheatd.engine": self.engine}
        tokens = {
            "gen_ai.usage.input_tokens": self.usage.get("prompt_tokens"),
            "gen_ai.usage.output_tokens": self.usage.get("completion_tokens"),
        }
        asked = {"reheatd.source": watch.source, "reheatd.job_id": self.job}
        failed = watch.status == BROKEN or watch.status.startswith("5")
        for span in (self._asking, self._whole):
            if span is None:
                continue
            attributes = {**served, **tokens, **(asked if span is self._whole else {})}
            span.set_attributes({name: value for name, value in attributes.items() if value is not None})
            # A stream that breaks had begun with 200.
            span.set_attribute("http.response.status_code", 200 if watch.status == BROKEN else int(watch.status))
            if failed:
                span.set_status(StatusCode.ERROR, watch.status)
            if watch.first is not None:
                since_ns = int((time.monotonic() - watch.first) * 1e9)
                span.add_event("first token", timestamp=time.time_ns() - since_ns)
            span.end()


def trace_of(request: Request) -> RequestTrace | None:
    """The trace of a request; None if nothing is traced."""
    return getattr(request.state, "trace", None)
