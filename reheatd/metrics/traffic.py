"""Counts and times the requests of the OpenAI surface, for Prometheus."""

import time
from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from reheatd.metrics.recent import Recent

MOST_VERSIONS = 20
"""Versions whose requests have series of their own; those of the one that was asked longest ago end for another one."""
NO_VERSION = "none"
"""Stands for the version where none answered."""
BROKEN = "broken"
"""Status of a stream that the engine did not finish, although it had begun with 200."""
DURATIONS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FIRST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BETWEEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Traffic:
    """The metrics of requests. Those of clients and of jobs are told apart by the label `source`.

    Args:
        registry: What the metrics belong to.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "reheatd_requests",
            "Requests that were answered, by path, by who asked, by the version that answered and by HTTP status.",
            ("route", "source", "version", "status"),
            registry=registry,
        )
        self._duration = Histogram(
            "reheatd_request_duration_seconds",
            "Time from the arrival of a request to the end of its answer.",
            ("route", "source", "version"),
            buckets=DURATIONS_S,
            registry=registry,
        )
        self._first = Histogram(
            "reheatd_time_to_first_token_seconds",
            "Time from the arrival of a request for a stream to its first event.",
            ("route", "source", "version"),
            buckets=FIRST_S,
            registry=registry,
        )
        self._between = Histogram(
            "reheatd_time_between_tokens_seconds",
            "Mean time between two tokens of an answer, observed once for each stream.",
            ("route", "source", "version"),
            buckets=BETWEEN_S,
            registry=registry,
        )
        self.waiting = Gauge(
            "reheatd_requests_waiting", "Requests that wait for an engine that can take them.", registry=registry
        )
        """How many requests wait for an engine."""
        self.recent = Recent()
        self._versions: dict[str, None] = {}
        """The versions that are counted, the one that was asked longest ago first."""

    def begin(self, route: str, token_mark: bytes = b"\n\n") -> "Watch":
        """Begins to watch a request that has just arrived.

        Args:
            token_mark: What a stream has once for every token.
        """
        return Watch(self, route, token_mark)

    def count(self, watch: "Watch") -> None:
        """Counts a request whose answer has ended."""
        version = self._counted(watch.version)
        self._requests.labels(watch.route, watch.source, version, watch.status).inc()
        labels = watch.route, watch.source, version
        if watch.source == "client":
            self.recent.add(watch.ended - watch.began, None if watch.first is None else watch.first - watch.began)
        self._duration.labels(*labels).observe(watch.ended - watch.began)
        if watch.first is not None:
            self._first.labels(*labels).observe(watch.first - watch.began)
            if watch.events > 1:
                self._between.labels(*labels).observe((watch.last - watch.first) / (watch.events - 1) * watch.answers)

    def _counted(self, version: str | None) -> str:
        if version is None:
            return NO_VERSION
        self._versions.pop(version, None)
        self._versions[version] = None
        if len(self._versions) > MOST_VERSIONS:
            oldest = next(iter(self._versions))
            del self._versions[oldest]
            for metric in (self._requests, self._duration, self._first, self._between):
                metric.remove_by_labels({"version": oldest})
        return version


class Watch:
    """One request, until its answer ends and it is closed. As a filter of a stream, it passes on every byte."""

    def __init__(self, traffic: Traffic, route: str, token_mark: bytes) -> None:
        self.route = route
        self.source: Literal["client", "job"] = "client"
        self.version: str | None = None
        self.status = "500"
        """Status of the answer; an error that nobody foresaw leaves it as it is."""
        self.began = self.ended = self.last = time.monotonic()
        self.first: float | None = None
        """Time of a stream's first token, like the others by the monotonic clock."""
        self.events = 0
        self.answers = 1
        """Answers that the stream carries at the same time: the request's `n`."""
        self.on_close: Callable[[Watch], None] | None = None
        """Called once, when the answer has ended."""
        self._traffic = traffic
        self._token_mark = token_mark
        self._counted = False

    def feed(self, chunk: bytes) -> bytes:
        tokens = chunk.count(self._token_mark)
        if tokens:
            self.events += tokens
            self.last = time.monotonic()
            if self.first is None:
                self.first = self.last
        return chunk

    def end(self) -> bytes:
        return b""

    def close(self) -> None:
        if not self._counted:
            self._counted = True
            self.ended = time.monotonic()
            self._traffic.count(self)
            if self.on_close is not None:
                self.on_close(self)
