"""Counts and times swaps and their proofs, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from reheatd.errors import DeliveryError, ReheatdError

PROMOTED = "promoted"
"""Result of a swap that was made. That of one that failed before the flip is the error's code."""
SWAP_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
PROOF_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PROOF_TOKENS = (17, 34, 68, 136, 272, 544)


class SwapMetrics:
    """The metrics of swaps.

    Args:
        registry: What the metrics belong to.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._swaps = Counter(
            "reheatd_swaps",
            "Swaps of the promoted version, by result: promoted, or the code of the error before the flip.",
            ("result",),
            registry=registry,
        )
        self._duration = Histogram(
            "reheatd_swap_duration_seconds",
            "Time from the start of staging to the flip, with the proof of delivery.",
            buckets=SWAP_S,
            registry=registry,
        )
        self._proof_duration = Histogram(
            "reheatd_proof_duration_seconds",
            "Time from the loaded version to its proof of delivery on every engine.",
            buckets=PROOF_S,
            registry=registry,
        )
        self._tokens = Histogram(
            "reheatd_proof_tokens",
            "Tokens that a proof of delivery compared before it held.",
            buckets=PROOF_TOKENS,
            registry=registry,
        )
        for result in (PROMOTED, DeliveryError.code):
            self._swaps.labels(result)  # a counter that is there before the first swap shows the first one as a rise

    def promoted(self, seconds: float) -> None:
        """Counts a swap that was made, and that took `seconds`."""
        self._swaps.labels(PROMOTED).inc()
        self._duration.observe(seconds)

    def proved(self, seconds: float, tokens: int) -> None:
        """Counts a proof that held, after `seconds` and `tokens` that were compared."""
        self._proof_duration.observe(seconds)
        self._tokens.observe(tokens)

    def refused(self, error: ReheatdError) -> None:
        """Counts a swap that failed before the flip."""
        self._swaps.labels(error.code).inc()
