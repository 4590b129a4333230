"""Traces of requests and jobs, made by OpenTelemetry's SDK and received by OTLP over HTTP."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from reheatd.config import load_settings
from reheatd.config_tables import WorkersSection
from reheatd.config_tracing import ENDPOINT_ENV, TracingSection
from reheatd.control.states import State
from reheatd.errors import ConfigError, MissingExtraError
from reheatd.gateway.app import Gateway
from reheatd.jobs.contracts import JobStatus, RLRequest
from reheatd.jobs.tracing import JobTraces
from reheatd.process.children import child_environment
from reheatd.process.worker_command import worker_command
from reheatd.tracing import setup
from reheatd.tracing.requests import RequestTraces
from reheatd.tracing.setup import start_tracing
from tests.access import as_job
from tests.otlp import Receiver, receiving
from tests.unit.control_support import World as ControlWorld
from tests.unit.test_gateway import CHAT, World, in_world, served_by
from workers.tracing import traced_attempt

SAMPLED = 1
"""The flag of a trace that is kept."""
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "vendor=1"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def traced(folder: Path, body: Callable[[World], Awaitable[None]], ratio: float | None = None) -> Receiver:
    """Runs `body` in a world whose requests are traced, and returns what was received."""
    with receiving() as receiver:
        tracing = start_tracing(TracingSection(endpoint=receiver.url, sample_ratio=ratio), "reheatd")
        assert tracing is not None

        async def with_traces(world: World) -> None:
            traces = RequestTraces(tracing.tracer)
            world.gateway = Gateway(world.pool, world.slots, world.swaps, world.store, traces=traces)
            world.http = served_by(world.gateway, world.db)
            await body(world)

        in_world(folder, with_traces)
        tracing.close()
        assert receiver.paths <= {"/v1/traces"}
        return receiver


def test_a_request_goes_on_in_its_clients_trace_and_into_the_engine(tmp_path: Path) -> None:
    reached: dict[str, str] = {}

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": [], "usage": USAGE})

    async def body(world: World) -> None:
        world.engine.answer = answer
        response = await world.http.post(CHAT, json={"messages": []}, headers=SENT)
        assert response.json() == {"choices": [], "usage": USAGE}
        reached.update(world.engine.headers)

    receiver = traced(tmp_path, body)
    (whole,), (engine,) = receiver.named(f"POST {CHAT}"), receiver.named("engine")
    assert {whole.trace_id, engine.trace_id} == {TRACE_ID}
    assert (whole.parent_id, engine.parent_id) == (PARENT_ID, whole.span_id)
    assert reached["traceparent"] == f"00-{TRACE_ID}-{engine.span_id}-01"
    assert reached["tracestate"] == "vendor=1"
    assert whole.service == "reheatd"
    assert whole.attributes == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "reheatd.version": "policy-v0",
        "reheatd.engine": "engine-1",
        "reheatd.source": "client",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
    }
    assert whole.status != 2 and whole.seconds >= engine.seconds > 0


@pytest.mark.parametrize("breaks", [False, True])
def test_a_streams_spans_end_with_it_and_know_its_tokens(tmp_path: Path, breaks: bool) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["stream_options"] == {"include_usage": True}
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b'data: {"choices":[{"index":0}]}\n\n')
        await asyncio.sleep(0.05)
        if breaks:
            assert request.transport is not None
            request.transport.close()
        else:
            await answer.write(b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n")
        return answer

    async def body(world: World) -> None:
        world.engine.answer = stream
        answer = await world.http.post(CHAT, json={"messages": [], "stream": True})
        assert "usage" not in answer.text  # the client did not ask for it

    receiver = traced(tmp_path, body)
    (whole,), (engine,) = receiver.named(f"POST {CHAT}"), receiver.named("engine")
    assert engine.seconds >= 0.04 and engine.events == ("first token",)
    assert whole.attributes.get("gen_ai.usage.output_tokens") == (None if breaks else 5)
    assert (whole.status == 2) == breaks
    assert whole.attributes["http.response.status_code"] == 200


def test_requests_that_reach_no_engine_and_those_of_jobs_say_so(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.http.post(CHAT, json={"model": "gpt-4o"})
        await world.http.post(CHAT, json={"messages": []}, headers=as_job("rl-1"))

    receiver = traced(tmp_path, body)
    refused, asked = receiver.named(f"POST {CHAT}")
    assert refused.attributes["http.response.status_code"] == 404 and "reheatd.engine" not in refused.attributes
    assert len(receiver.named("engine")) == 1
    assert (asked.attributes["reheatd.source"], asked.attributes["reheatd.job_id"]) == ("job", "rl-1")
    assert refused.trace_id != asked.trace_id and not refused.parent_id


def test_a_request_that_is_not_sampled_is_not_changed(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.http.post(CHAT, json={"messages": [], "stream": True})
        assert "stream_options" not in world.engine.body
        flags = world.engine.headers["traceparent"].rpartition("-")[2]
        assert not int(flags, 16) & SAMPLED
        await world.http.post(CHAT, json={"messages": []}, headers=SENT)  # the client decides for its trace

    receiver = traced(tmp_path, body, ratio=0.0)
    assert {span.trace_id for span in receiver.spans} == {TRACE_ID}


def test_trace_context_passes_without_tracing(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.http.post(CHAT, json={"messages": []}, headers=SENT)
        assert {name: world.engine.headers[name] for name in SENT} == SENT
        await world.http.post(CHAT, json={"messages": []})
        assert "traceparent" not in world.engine.headers

    in_world(tmp_path, body)


def test_the_daemon_needs_nothing_of_opentelemetry() -> None:
    lines = (
        "import sys",
        "sys.modules['opentelemetry'] = None",
        "import cli.main, reheatd.serve, workers.tracing",
        "from reheatd.extras import otel_is_missing",
        "print(otel_is_missing())",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "opentelemetry"), done.stderr


def test_nothing_that_makes_spans_is_imported_where_nothing_is_traced() -> None:
    program = "import sys, cli.main, reheatd.serve, workers.tracing; print('opentelemetry.sdk.trace' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_job_is_one_trace_over_daemon_and_worker_and_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Channel:
        def __init__(self) -> None:
            self.phases: list[str] = []

        def progress(self, phase: str, step: int, steps: int, metrics: dict[str, float], **more: Any) -> None:
            self.phases.append(phase)

        def is_cancelled(self) -> bool:
            return False

    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret")
        tracing = start_tracing(TracingSection(), "reheatd")
        assert tracing is not None
        world = ControlWorld(tmp_path)
        ledger = world.ledger
        traces = JobTraces(tracing.tracer)
        ledger.on_status = traces.follow
        record = ledger.create(RLRequest(), "manual", JobStatus.QUEUED, 0)
        job_id = record.job.job_id
        assert traces.headers(job_id) == {}
        ledger.advance(record, JobStatus.RUNNING, State.CONTINUING_RL, "dispatched")
        headers = traces.headers(job_id)

        channel = Channel()
        with traced_attempt(job_id, 1, headers) as watch:
            watched = watch(channel)
            watched.progress("preparing; looking around", 0, 2, {})
            for step in (1, 2):
                watched.progress("sampling", step, 2, {})
                watched.progress("sampling", step, 2, {}, done=1, of=2)
                watched.progress("training", step, 2, {"loss": 0.5})
        assert channel.phases[:2] == ["preparing; looking around", "sampling"] and len(channel.phases) == 7

        restarted = JobTraces(tracing.tracer)  # the spans of the daemon before are lost
        ledger.on_status = restarted.follow
        again = ledger.jobs.active()
        assert again is not None
        restarted.follow(again)
        ledger.advance(again, JobStatus.GATING, State.GATING, "trained")
        ledger.finish(again, JobStatus.FAILED, "the gate fell over", State.SERVING)
        tracing.close()

    assert receiver.headers["authorization"] == "secret"
    (attempt,) = receiver.named("attempt")
    (queued,), (job,) = receiver.named("queued"), receiver.named("job rl")
    running, gating = receiver.named("running"), receiver.named("gating")
    assert {span.trace_id for span in receiver.spans} == {headers["traceparent"].split("-")[1]}
    assert attempt.service == "reheatd-worker" and attempt.parent_id == headers["traceparent"].split("-")[2]
    phases = [span for span in receiver.spans if span.parent_id == attempt.span_id]
    assert [(span.name, span.attributes["reheatd.step"]) for span in phases] == [
        ("preparing", 0),
        ("sampling", 1),
        ("training", 1),
        ("sampling", 2),
        ("training", 2),
    ]
    assert phases[2].attributes["reheatd.loss"] == 0.5
    assert job.parent_id == queued.parent_id  # the span of the daemon that was killed
    assert {span.parent_id for span in [*running, *gating]} == {job.span_id}
    assert job.attributes["reheatd.status"] == "failed" and job.status == 2


def test_an_attempt_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv(ENDPOINT_ENV, f"{receiver.url}/v1/traces")
        with pytest.raises(ValueError, match="diverged"), traced_attempt("rl-1", 2, SENT):
            raise ValueError("training diverged")
    (attempt,) = receiver.spans
    assert (attempt.status, attempt.events, attempt.parent_id) == (2, ("exception",), PARENT_ID)
    assert attempt.attributes == {"reheatd.job_id": "rl-1", "reheatd.attempt": 2}


def test_an_attempt_is_not_traced_by_default() -> None:
    channel: Any = object()
    with traced_attempt("rl-1", 1, {}) as watch:
        assert watch(channel) is channel


def test_tracing_is_off_until_something_names_a_receiver() -> None:
    assert not TracingSection().is_on({})
    assert start_tracing(TracingSection(), "reheatd") is None
    assert TracingSection(endpoint="http://collector:4318").is_on({})
    assert TracingSection().is_on({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
    for off in ({"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}):
        assert not TracingSection(endpoint="http://collector:4318").is_on(off)


@pytest.mark.parametrize(
    "given", ["http://collector:4318", "http://collector:4318/", "http://collector:4318/v1/traces"]
)
def test_workers_get_the_table_as_variables(given: str) -> None:
    section = TracingSection(endpoint=given, sample_ratio=0.25)
    env = worker_command("redis://broker:6379/0", WorkersSection(), section, index=1).env
    assert env[ENDPOINT_ENV] == "http://collector:4318/v1/traces"
    assert (env["OTEL_TRACES_SAMPLER"], env["OTEL_TRACES_SAMPLER_ARG"]) == ("parentbased_traceidratio", "0.25")


def test_only_workers_get_the_receivers_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret")
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in child_environment({})
    for endpoint, given in ((None, None), ("http://collector:4318", "authorization=secret")):
        section = TracingSection(endpoint=endpoint)
        env = worker_command("redis://broker:6379/0", WorkersSection(), section, index=1).env
        assert env.get("OTEL_EXPORTER_OTLP_HEADERS") == given


def test_a_receiver_without_the_extra_is_an_error_in_the_table_and_a_warning_in_a_variable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(setup, "otel_is_missing", lambda: "opentelemetry")
    with pytest.raises(MissingExtraError, match=r"reheatd\[otel\].*tracing.endpoint"):
        start_tracing(TracingSection(endpoint="http://collector:4318"), "reheatd")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert start_tracing(TracingSection(), "reheatd") is None
    assert "nothing is traced" in caplog.text and "reheatd[otel]" in caplog.text


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"endpoint": "collector:4318"}, "tracing.endpoint"),
        ({"sample_ratio": 2}, "tracing.sample_ratio"),
        ({"exporter": "otlp"}, "tracing.exporter"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(overrides={"tracing": table})
