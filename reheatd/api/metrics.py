"""The daemon's state as Prometheus metrics, read at the moment of the scrape."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from reheatd.api.schemas import StatusView
from reheatd.control.states import State
from reheatd.engine.pool import EnginePool
from reheatd.entropy.detector import Verdict
from reheatd.entropy.regime import Thresholds
from reheatd.entropy.windows import LiveWindow
from reheatd.jobs.contracts import Job, JobStatus
from reheatd.measures import EntropyEstimate
from reheatd.names import version_name

NATS = "nats per token"
ENTROPY = "reheatd_entropy_nats_per_token"
BASELINE = "reheatd_entropy_baseline_nats_per_token"
BOUNDS: dict[str, str] = {"": "", "_low": ", lower confidence limit", "_high": ", upper confidence limit"}


@dataclass(frozen=True)
class Snapshot:
    """What a scrape collects; to an encoder, it looks like a registry."""

    status: StatusView
    thresholds: Thresholds | None
    """The thresholds of the next window; None before the baseline is known."""
    live: Iterable[LiveWindow]
    """The newest window of each source."""
    jobs: Mapping[tuple[str, str], int]
    """Number of jobs by kind and status."""
    pool: EnginePool
    counted: CollectorRegistry
    """The metrics that are counted as things happen."""

    def collect(self) -> Iterator[Metric]:
        yield from _policy(self.status)
        yield from _entropy(self.status, self.thresholds, self.live)
        yield from _learning(self.status)
        yield from _jobs(self.status, self.jobs)
        yield from _parts(self.status, self.pool)
        yield from self.counted.collect()


def metrics_answer(accept: str | None, snapshot: Snapshot) -> Response:
    """All metrics, in the format that the scraper asks for.

    Args:
        accept: The request's header of that name.
    """
    encode, content_type = choose_encoder(accept or "")
    return Response(encode(snapshot), media_type=content_type)  # type: ignore[arg-type]


def _policy(status: StatusView) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "reheatd_policy", "What is served.", value={"policy": status.policy, "version": status.promoted.name}
    )
    yield GaugeMetricFamily("reheatd_promoted_version", "Number of the promoted version.", status.promoted.version)
    yield GaugeMetricFamily("reheatd_ready", "Whether a token can be generated.", status.readiness == "ready")
    yield _one_of("reheatd_state", "State of the control loop.", "state", list(State), status.state)
    yield _one_of("reheatd_verdict", "Verdict on the promoted version.", "verdict", get_args(Verdict), status.verdict)
    yield GaugeMetricFamily(
        "reheatd_cooldown_remaining_seconds", "Time until the next reheat may start.", status.cooldown_remaining_s
    )
    paused = GaugeMetricFamily("reheatd_paused", "Kinds of jobs that were paused after they failed.")
    paused.add_metric((), len(status.paused))
    yield paused


def _entropy(status: StatusView, thresholds: Thresholds | None, live: Iterable[LiveWindow]) -> Iterator[Metric]:
    windows = [(window.version, window.source, window.measured_by, window.estimate) for window in live]
    if status.entropy is not None:
        windows.append((version_name(status.promoted.version), "probe", "control_variate", status.entropy))
    for bound, what in BOUNDS.items():
        family = GaugeMetricFamily(
            ENTROPY.replace("_nats", f"{bound}_nats"),
            f"Entropy in the newest window of each source, in {NATS}{what}.",
            labels=("version", "source", "measured_by"),
        )
        for version, source, measured_by, estimate in windows:
            family.add_metric((version, source, measured_by), _bound(estimate, bound))
        yield family
    if status.baseline is not None:
        for bound, what in BOUNDS.items():
            yield GaugeMetricFamily(
                BASELINE.replace("_nats", f"{bound}_nats"),
                f"Entropy that the promoted version is compared with, in {NATS}{what}.",
                _bound(status.baseline, bound),
            )
    if status.ratio is not None:
        yield GaugeMetricFamily(
            "reheatd_entropy_baseline_ratio", "Entropy of the promoted version over the baseline.", status.ratio
        )
    if thresholds is not None:
        limits = GaugeMetricFamily(
            "reheatd_entropy_threshold_nats_per_token",
            f"Entropy beyond which a verdict begins, in {NATS}.",
            labels=("verdict",),
        )
        for verdict in ("collapsed", "warning", "too_hot"):
            if (limit := getattr(thresholds, verdict)) is not None:
                limits.add_metric((verdict,), limit)
        yield limits
    yield GaugeMetricFamily(
        "reheatd_entropy_measurable", "Whether entropy could be measured when it was last due.", status.problem is None
    )


def _learning(status: StatusView) -> Iterator[Metric]:
    if (learning := status.learning) is None:
        return
    groups = GaugeMetricFamily(
        "reheatd_rollout_groups",
        "Groups of rollouts per step of the present run of RL: all, and those that vary, all fail or all pass.",
        labels=("outcome",),
    )
    for outcome in ("groups", "varied", "all_fail", "all_pass"):
        groups.add_metric(("all" if outcome == "groups" else outcome,), getattr(learning, outcome))
    yield groups
    yield GaugeMetricFamily("reheatd_rl_steps", "Steps of the present run of RL.", learning.steps)
    for trend, name, what in (
        ("reward", "reheatd_rollout_reward", "Mean reward of rollouts"),
        ("grad_norm", "reheatd_gradient_norm", "Mean norm of the gradient"),
    ):
        if trend in learning.trends:
            yield GaugeMetricFamily(name, f"{what} in the newest steps of RL.", learning.trends[trend].last)


def _jobs(status: StatusView, numbers: Mapping[tuple[str, str], int]) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("reheatd_jobs", "Jobs of all times, by kind and status.", labels=("kind", "status"))
    # Series that are there before the first job has failed show its failure as a rise.
    for kind, name in itertools.product(get_args(Job.model_fields["kind"].annotation), JobStatus):
        jobs.add_metric((kind, name), numbers.get((kind, name), 0))
    yield jobs
    yield GaugeMetricFamily("reheatd_jobs_waiting", "Jobs that wait for their turn or for approval.", status.queued)


def _parts(status: StatusView, pool: EnginePool) -> Iterator[Metric]:
    up = GaugeMetricFamily("reheatd_engine_up", "Whether an engine serves.", labels=("engine",))
    busy = GaugeMetricFamily("reheatd_engine_requests_in_flight", "Requests on an engine.", labels=("engine",))
    for engine in status.engines:
        up.add_metric((engine.name,), engine.ok)
        busy.add_metric((engine.name,), engine.in_flight)
    yield up
    yield busy
    spent = CounterMetricFamily(
        "reheatd_engine_busy_seconds",
        "Time in which an engine had requests in flight, divided equally among them, by who asked.",
        labels=("engine", "source"),
    )
    for replica in pool.replicas:
        for asker, seconds in replica.busy.seconds().items():
            spent.add_metric((replica.name, asker), seconds)
    yield spent
    yield GaugeMetricFamily("reheatd_broker_up", "Whether the broker answers.", status.broker.ok)
    takes = GaugeMetricFamily("reheatd_tracker_up", "Whether a tracker takes what is sent.", labels=("tracker",))
    for tracker in status.trackers:
        takes.add_metric((tracker.name,), tracker.ok)
    yield takes
    if status.workers.connected is not None:
        yield GaugeMetricFamily("reheatd_workers", "Workers that answer.", status.workers.connected)
    yield GaugeMetricFamily("reheatd_requests_in_flight", "Requests that are being answered.", status.in_flight)
    yield GaugeMetricFamily("reheatd_adapters_loaded", "Adapters in the engines' slots.", len(status.adapters_loaded))


def _one_of(name: str, documentation: str, label: str, values: Iterable[str], now: str | None) -> GaugeMetricFamily:
    """A metric with one series for each value, which is 1 for the present one and 0 for the others."""
    family = GaugeMetricFamily(name, documentation, labels=(label,))
    for value in values:
        family.add_metric((value,), value == now)
    return family


def _bound(estimate: EntropyEstimate, bound: str) -> float:
    return {"": estimate.mean, "_low": estimate.low, "_high": estimate.high}[bound]
