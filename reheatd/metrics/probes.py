"""Counts what the windows of probes cost, for Prometheus."""

from prometheus_client import CollectorRegistry, Histogram

WINDOW_S = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
WINDOW_TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


class ProbeMetrics:
    """The metrics of windows, whatever they measure: the promoted version, a job's candidate or the baseline.

    Args:
        registry: What the metrics belong to.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "reheatd_probe_window_duration_seconds",
            "Time that a window of probes took.",
            buckets=WINDOW_S,
            registry=registry,
        )
        self._tokens = Histogram(
            "reheatd_probe_window_tokens",
            "Tokens that the policy wrote in a window of probes.",
            buckets=WINDOW_TOKENS,
            registry=registry,
        )

    def measured(self, seconds: float, tokens: int) -> None:
        """Counts a window that was measured."""
        self._duration.observe(seconds)
        self._tokens.observe(tokens)
