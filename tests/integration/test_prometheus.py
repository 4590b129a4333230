"""A real Prometheus with the configuration and the rules of `docker/`, the dashboard's queries, and real traces."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from reheatd.control.states import State
from reheatd.jobs.contracts import JobStatus, RLRequest
from tests.daemon import PROMPT, Daemon, running
from tests.integration.serving import QuietServer
from tests.otlp import Receiver, receiving
from tests.prometheus import Prometheus, dashboard_queries, promtool, running_prometheus
from tests.unit import api_support
from tests.unit.metrics_support import FullWorld
from tests.waiting import until, wait_until

CHAT = "/v1/chat/completions"
COLLAPSED = "ReheatdPolicyCollapsed"
AT_A_CHANGE = {"annotations"}
"""What the dashboard asks that has an answer only in the minute of a change."""


def unanswered(prometheus: Prometheus) -> list[str]:
    """The dashboard's queries that have no answer now; one that is an error fails the test."""
    queries = [each for title, own in dashboard_queries().items() if title not in AT_A_CHANGE for each in own]
    return [query for query in queries if not prometheus.query(query)]


def scrapes(prometheus: Prometheus) -> float:
    counted = prometheus.query("count_over_time(reheatd_ready[1m])")
    return float(counted[0]["value"][1]) if counted else 0


def test_every_query_of_the_dashboard_answers_and_a_collapse_fires_its_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        world = FullWorld(tmp_path)
        listener = socket.create_server(("127.0.0.1", 0))
        server = QuietServer(uvicorn.Config(world.app(), lifespan="off", log_config=None, access_log=False))
        serving = asyncio.create_task(server.serve([listener]))
        world.happen()
        try:
            async with world:
                with running_prometheus(tmp_path, f"127.0.0.1:{listener.getsockname()[1]}") as prometheus:
                    await story(world, prometheus)
        finally:
            server.should_exit = True
            await serving

    async def story(world: FullWorld, prometheus: Prometheus) -> None:
        await until(lambda: scrapes(prometheus) >= 2)
        record = world.ledger.create(RLRequest(), "manual", JobStatus.AWAITING_APPROVAL, 0)
        world.ledger.finish(record, JobStatus.REJECTED, "not wanted", State.SERVING)
        world.ledger.create(RLRequest(), "manual", JobStatus.AWAITING_APPROVAL, 0)
        world.happen()
        await until(lambda: not unanswered(prometheus), lambda: "\n".join(unanswered(prometheus)))
        for group in prometheus.http.get("/api/v1/rules").json()["data"]["groups"]:
            assert {rule["name"]: rule["health"] for rule in group["rules"]} == {
                rule["name"]: "ok" for rule in group["rules"]
            }
        # The world's broker is away, and its entropy cannot be measured.
        await until(lambda: prometheus.firing() == {"ReheatdBrokerOut", "ReheatdEntropyUnmeasured"})
        monkeypatch.setattr(api_support._Monitor, "verdict", "collapsed")
        await until(lambda: COLLAPSED in prometheus.firing())
        monkeypatch.setattr(api_support._Monitor, "verdict", "ok")
        await until(lambda: COLLAPSED not in prometheus.firing())

    asyncio.run(run())


@pytest.fixture(scope="module")
def traced_daemon(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Receiver]]:
    """A daemon whose policy counts as collapsed, because the baseline it is compared with is far above it."""
    with (
        receiving() as receiver,
        running(
            tmp_path_factory.mktemp("daemon"),
            tiny_policy,
            entropy={"baseline_nats": 1000.0, "interval_s": 1.0, "max_share": 1.0},
            control={"mode": "observe"},
            task={"eval_count": 4},
            workers={"report_rollouts": 2},
            tracing={"endpoint": receiver.url},
        ) as daemon,
    ):
        yield daemon, receiver


def stream(daemon: Daemon) -> httpx.Response:
    body: dict[str, Any] = {"model": "policy", "messages": PROMPT, "max_tokens": 5, "stream": True}
    return daemon.http.post(CHAT, json=body | {"ignore_eos": True})


def test_a_real_collapse_fires_the_alert_and_the_metrics_are_well_formed(
    traced_daemon: tuple[Daemon, Receiver], tmp_path: Path
) -> None:
    daemon, _ = traced_daemon
    assert stream(daemon).status_code == 200
    with running_prometheus(tmp_path, daemon.url.removeprefix("http://")) as prometheus:
        wait_until(lambda: COLLAPSED in prometheus.firing())
        promtool("check", "metrics", text=daemon.http.get("/metrics").text)
        shown = dashboard_queries()
        for title in (
            "Verdict",
            "Entropy of the probes, against baseline and thresholds",
            "Time to the first token, by version",
            "Time between tokens, by version",
            "Share of the engines' time",
            "Time of a window",
            "Tokens of a window",
        ):
            wait_until(lambda title=title: all(prometheus.query(query) for query in shown[title]))
        (probes,) = prometheus.query('sum(reheatd_engine_busy_seconds_total{source="probe"})')
        assert float(probes["value"][1]) > 0


def test_a_real_daemon_sends_the_spans_of_a_stream(traced_daemon: tuple[Daemon, Receiver]) -> None:
    daemon, receiver = traced_daemon
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = daemon.http.post(
        CHAT,
        json={"model": "policy", "messages": PROMPT, "max_tokens": 5, "stream": True, "ignore_eos": True},
        headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
    )
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    assert all("usage" not in json.loads(event) or json.loads(event)["usage"] is None for event in events)
    spans = wait_until(lambda: _complete([span for span in receiver.spans if span.trace_id == trace_id]))
    whole, engine = spans[f"POST {CHAT}"], spans["engine"]
    assert engine.parent_id == whole.span_id and engine.events == ("first token",)
    assert whole.attributes["gen_ai.usage.output_tokens"] == 5
    assert whole.attributes["reheatd.version"] == "policy-v0" and whole.attributes["reheatd.engine"] == "engine"


def test_a_real_job_is_one_trace_over_daemon_and_worker(traced_daemon: tuple[Daemon, Receiver]) -> None:
    daemon, receiver = traced_daemon
    asked = {"kind": "rl", "steps": 1, "prompts_per_step": 2, "group_size": 2}
    submitted = daemon.http.post("/reheatd/v1/jobs", json=asked)
    assert submitted.status_code == 202, submitted.text
    job_id = submitted.json()["job_id"]
    # No version is above the collapse threshold that such a baseline gives.
    job = wait_until(lambda: _over(daemon.http.get(f"/reheatd/v1/jobs/{job_id}").json()))
    assert job["status"] == "rejected", job
    (whole,) = wait_until(lambda: receiver.named("job rl"))
    (attempt,) = wait_until(lambda: receiver.named("attempt"))
    own = [span for span in receiver.spans if span.trace_id == whole.trace_id]
    (running,) = [span for span in own if span.name == "running"]
    assert (whole.service, attempt.service) == ("reheatd", "reheatd-worker")
    assert (running.parent_id, attempt.parent_id) == (whole.span_id, running.span_id)
    assert {"queued", "running", "gating"} <= {span.name for span in own if span.parent_id == whole.span_id}
    phases = {span.name for span in own if span.parent_id == attempt.span_id}
    assert {"preparing", "sampling", "training", "evaluating"} <= phases
    assert whole.attributes["reheatd.status"] == "rejected" and whole.status == 2
    rollouts = [span for span in receiver.spans if span.attributes.get("reheatd.job_id") == job_id]
    assert any(span.attributes.get("reheatd.source") == "job" for span in rollouts)


def _over(job: dict[str, Any]) -> dict[str, Any] | None:
    return job if job["status"] in ("succeeded", "rejected", "failed", "cancelled") else None


def _complete(spans: list[Any]) -> dict[str, Any] | None:
    return {span.name: span for span in spans} if len(spans) == 2 else None
