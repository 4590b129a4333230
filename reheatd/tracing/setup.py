"""Starts tracing: what makes spans, and what sends them by OTLP over HTTP."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reheatd.config_tracing import ENDPOINT_ENV, TracingSection
from reheatd.errors import MissingExtraError
from reheatd.extras import otel_is_missing

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracing:
    """What makes spans. `close` sends those that are left, which may take some seconds, and blocks meanwhile."""

    tracer: "Tracer"
    close: Callable[[], None]


def check_tracing(section: TracingSection) -> None:
    """Checks that what the table asks for can be traced here.

    Raises:
        MissingExtraError: The table names a receiver, and OpenTelemetry's SDK is not installed.
    """
    if section.endpoint is not None and section.is_on() and (missing := otel_is_missing()):
        raise MissingExtraError(f"traces need {missing}: pip install 'reheatd[otel]', or leave tracing.endpoint out")


def start_tracing(section: TracingSection, service: str) -> Tracing | None:
    """Starts to trace, unless neither the table nor OpenTelemetry's variables name a receiver.

    Spans are sent by a thread of their own. A receiver that is away costs spans, and is logged.

    Args:
        service: Name of this process among others, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES has one.

    Raises:
        MissingExtraError: As for `check_tracing`.
    """
    check_tracing(section)
    if not section.is_on():
        return None
    if missing := otel_is_missing():
        # The variables may be set for other programs on this machine.
        logger.warning(
            "nothing is traced: OpenTelemetry's variables name a receiver, but traces need %s: pip install "
            "'reheatd[otel]'",
            missing,
        )
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    ratio = section.sample_ratio
    provider = TracerProvider(
        sampler=None if ratio is None else ParentBased(TraceIdRatioBased(ratio)),
        resource=Resource.create({} if named else {"service.name": service}),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=section.variables().get(ENDPOINT_ENV))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider.get_tracer("reheatd"), provider.shutdown)
