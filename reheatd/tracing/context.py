"""W3C trace context: how a trace goes on from one process to the next.

Import this only where something is traced, because it imports OpenTelemetry.
"""

from collections.abc import Mapping, MutableMapping

from opentelemetry.context import Context
from opentelemetry.trace import Span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_propagator = TraceContextTextMapPropagator()


def context_of(headers: Mapping[str, str]) -> Context:
    """The trace that `traceparent` and `tracestate` name; empty if they name none."""
    return _propagator.extract(headers, Context())


def continue_in(span: Span, headers: MutableMapping[str, str]) -> None:
    """Sets the headers by which another process goes on below a span, and removes those of another trace."""
    for name in (TRACEPARENT, TRACESTATE):
        headers.pop(name, None)
    _propagator.inject(headers, set_span_in_context(span))
