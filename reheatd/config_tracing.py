"""The table `tracing` of the configuration: where the spans of requests and jobs go."""

import os
from collections.abc import Mapping

from pydantic import Field, field_validator

from reheatd.options import Options

TRACES_PATH = "/v1/traces"
ENDPOINT_ENV = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
ENDPOINTS_ENV = (ENDPOINT_ENV, "OTEL_EXPORTER_OTLP_ENDPOINT")
HEADERS_ENV = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
"""Variables with what a receiver asks for, which is often a key."""


class TracingSection(Options):
    endpoint: str | None = None
    """URL of what receives OpenTelemetry traces by OTLP over HTTP, such as http://127.0.0.1:4318. Default: that of
    OTEL_EXPORTER_OTLP_ENDPOINT; if it is not set either, nothing is traced. The other OTEL_* variables hold too."""
    sample_ratio: float | None = Field(default=None, ge=0, le=1)
    """Share of requests and jobs that are traced, where the client's `traceparent` does not decide. Default: that of
    OTEL_TRACES_SAMPLER; if it is not set either, all."""

    @field_validator("endpoint")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("not like http://host:4318")
        return value

    def is_on(self, environment: Mapping[str, str] = os.environ) -> bool:
        """Whether something is traced, by this table and the variables of OpenTelemetry."""
        if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return False
        if environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
            return False
        return self.endpoint is not None or any(environment.get(name) for name in ENDPOINTS_ENV)

    def variables(self) -> dict[str, str]:
        """The table as OpenTelemetry's variables; empty if it is."""
        variables: dict[str, str] = {}
        if self.endpoint is not None:
            base = self.endpoint.rstrip("/").removesuffix(TRACES_PATH)
            variables[ENDPOINT_ENV] = base + TRACES_PATH
        if self.sample_ratio is not None:
            variables["OTEL_TRACES_SAMPLER"] = "parentbased_traceidratio"
            variables["OTEL_TRACES_SAMPLER_ARG"] = str(self.sample_ratio)
        return variables
