"""Requests and swaps as Prometheus counts them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from reheatd.adapters.evidence import Proof
from reheatd.engine.busy_time import Asker
from reheatd.errors import DeliveryError
from reheatd.gateway.app import Gateway
from reheatd.metrics.probes import ProbeMetrics
from reheatd.metrics.swaps import SwapMetrics
from reheatd.metrics.traffic import MOST_VERSIONS, Traffic
from reheatd.names import rollout_name
from tests.access import as_job
from tests.unit.test_adapters_swap import World as SwapWorld
from tests.unit.test_gateway import CHAT, World, in_world, served_by
from tests.waiting import HANGS_S, until


class Scrape:
    """Reads a registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def watched(world: World, **options: Any) -> Scrape:
    """Puts a gateway whose requests are counted in place of the world's."""
    scrape = Scrape()
    traffic = Traffic(scrape.registry)
    world.gateway = Gateway(world.pool, world.slots, world.swaps, world.store, traffic=traffic, **options)
    world.http = served_by(world.gateway, world.db)
    return scrape


def trained(folder: Path) -> Path:
    """The files of an adapter, as far as the engine looks at them."""
    adapter = folder / "trained"
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_model.safetensors").write_text("weights")
    return adapter


def test_requests_are_counted_by_version_and_status(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        scrape = watched(world)
        await world.http.post(CHAT, json={"messages": []})
        await world.http.post(CHAT, json={"messages": []})
        await world.http.post(CHAT, json={"model": "gpt-4o"})

        def requests(version: str, status: str) -> float | None:
            labels = {"route": CHAT, "source": "client", "version": version, "status": status}
            return scrape("reheatd_requests_total", **labels)

        assert requests("policy-v0", "200") == 2
        assert requests("none", "404") == 1
        labels = {"route": CHAT, "source": "client", "version": "policy-v0"}
        assert scrape("reheatd_request_duration_seconds_count", **labels) == 2
        assert scrape("reheatd_request_duration_seconds_count", **{**labels, "version": "none"}) == 1
        assert scrape("reheatd_time_to_first_token_seconds_count", **labels) is None

    in_world(tmp_path, body)


@pytest.mark.parametrize(("breaks", "status"), [(False, "200"), (True, "broken")])
def test_a_stream_is_timed_and_counted_once_it_has_ended(tmp_path: Path, breaks: bool, status: str) -> None:
    pause_s = 0.05

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(3):
            await answer.write(b"data: {}\n\n")
            await asyncio.sleep(pause_s)
        if breaks:
            assert request.transport is not None
            request.transport.close()
        return answer

    async def body(world: World) -> None:
        scrape = watched(world)
        world.engine.answer = stream
        await world.http.post(CHAT, json={"messages": [], "stream": True})
        labels = {"route": CHAT, "source": "client", "version": "policy-v0"}
        assert scrape("reheatd_requests_total", **labels, status=status) == 1
        assert scrape("reheatd_time_to_first_token_seconds_count", **labels) == 1
        between = scrape("reheatd_time_between_tokens_seconds_sum", **labels)
        duration = scrape("reheatd_request_duration_seconds_sum", **labels)
        assert between is not None and duration is not None
        assert between >= 0.8 * pause_s
        assert duration >= 2 * between

    in_world(tmp_path, body)


def test_the_time_between_tokens_is_that_of_each_answer() -> None:
    scrape = Scrape()
    watch = Traffic(scrape.registry).begin(CHAT)
    watch.answers = 4
    for _ in range(5):
        watch.feed(b"data: {}\n\n")
    assert watch.first is not None
    watch.last = watch.first + 1.0  # four events in a second, of four answers
    watch.close()
    labels = {"route": CHAT, "source": "client", "version": "none"}
    assert scrape("reheatd_time_between_tokens_seconds_sum", **labels) == pytest.approx(1.0)


def test_only_the_versions_that_were_asked_last_have_series() -> None:
    scrape = Scrape()
    traffic = Traffic(scrape.registry)

    def ask(version: str) -> None:
        watch = traffic.begin(CHAT)
        watch.status, watch.version = "200", version
        watch.close()
        watch.close()  # counts once

    def count(version: str) -> float | None:
        labels = {"route": CHAT, "source": "client", "version": version, "status": "200"}
        return scrape("reheatd_requests_total", **labels)

    for number in range(MOST_VERSIONS):
        ask(f"policy-v{number}")
    ask("policy-v0")
    ask("base")
    assert count("policy-v0") == 2 and count("base") == 1
    assert count("policy-v1") is None and count("policy-v2") == 1
    timed = {"route": CHAT, "source": "client", "version": "policy-v1"}
    assert scrape("reheatd_request_duration_seconds_count", **timed) is None
    assert scrape("reheatd_request_duration_seconds_count", **{**timed, "version": "policy-v2"}) == 1


def test_requests_of_jobs_end_no_series_of_the_versions_that_clients_ask(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        scrape = watched(world)
        client = {"route": CHAT, "source": "client", "version": "policy-v0", "status": "200"}
        job = {"route": CHAT, "source": "job", "version": "none", "status": "200"}
        await world.http.post(CHAT, json={"messages": []})
        for step in range(MOST_VERSIONS + 1):
            adapter = rollout_name("rl-1", 1, step)
            await world.slots.load(adapter, trained(tmp_path))
            answer = await world.http.post(CHAT, json={"model": adapter, "messages": []}, headers=as_job("rl-1"))
            assert answer.status_code == 200, answer.text
            await world.slots.unload(adapter)
        assert scrape("reheatd_requests_total", **job) == MOST_VERSIONS + 1
        assert scrape("reheatd_requests_total", **client) == 1

    in_world(tmp_path, body)


@pytest.mark.parametrize(("n", "answers"), [(2, 2), ("2", 1), (None, 1)])
def test_a_number_of_answers_that_comes_as_text_breaks_no_stream(tmp_path: Path, n: object, answers: int) -> None:
    pause_s = 0.05

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(3):
            await answer.write(b"data: {}\n\n")
            await asyncio.sleep(pause_s)
        return answer

    async def body(world: World) -> None:
        scrape = watched(world)
        world.engine.answer = stream
        answer = await world.http.post(CHAT, json={"messages": [], "stream": True, "n": n})
        assert (answer.status_code, answer.content) == (200, 3 * b"data: {}\n\n")
        labels = {"route": CHAT, "source": "client", "version": "policy-v0"}
        assert scrape("reheatd_requests_total", **labels, status="200") == 1
        between = scrape("reheatd_time_between_tokens_seconds_sum", **labels)
        assert between is not None and between >= 0.8 * answers * pause_s

    in_world(tmp_path, body)


def test_requests_that_wait_for_an_engine_are_counted(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        scrape = watched(world, engine_wait_s=HANGS_S)
        (replica,) = world.pool.replicas
        replica.eject()
        asking = asyncio.create_task(world.http.post(CHAT, json={"messages": []}))
        await until(lambda: scrape("reheatd_requests_waiting") == 1)
        replica.enter()
        assert (await asking).status_code == 200
        assert scrape("reheatd_requests_waiting") == 0

    in_world(tmp_path, body)


def test_the_time_of_an_engine_is_divided_among_those_who_ask(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        (replica,) = world.pool.replicas
        asked: list[dict[Asker, int]] = []

        async def look(request: web.Request) -> web.StreamResponse:
            asked.append(dict(replica.busy.in_flight))
            return web.json_response({})

        world.engine.answer = look
        await world.http.post(CHAT, json={"messages": []})
        await world.http.post(CHAT, json={"messages": []}, headers=as_job("rl-1"))
        assert asked == [{"client": 1, "job": 0, "probe": 0}, {"client": 0, "job": 1, "probe": 0}]
        assert replica.busy.in_flight == {"client": 0, "job": 0, "probe": 0}

    in_world(tmp_path, body)


def test_windows_of_probes_are_counted_with_what_they_cost() -> None:
    scrape = Scrape()
    probes = ProbeMetrics(scrape.registry)
    probes.measured(4.5, 1500)
    probes.measured(5.5, 1600)
    assert scrape("reheatd_probe_window_duration_seconds_sum") == 10
    assert scrape("reheatd_probe_window_tokens_sum") == 3100
    assert scrape("reheatd_probe_window_tokens_count") == 2


def test_swaps_are_counted_by_what_came_of_them() -> None:
    scrape = Scrape()
    swaps = SwapMetrics(scrape.registry)
    assert scrape("reheatd_swaps_total", result="promoted") == 0
    assert scrape("reheatd_swaps_total", result=DeliveryError.code) == 0
    swaps.promoted(0.4)
    swaps.proved(0.1, 34)
    swaps.promoted(0.2)
    swaps.refused(DeliveryError("not what was trained"))
    assert scrape("reheatd_swaps_total", result="promoted") == 2
    assert scrape("reheatd_swaps_total", result=DeliveryError.code) == 1
    assert scrape("reheatd_swap_duration_seconds_sum") == pytest.approx(0.6)
    assert scrape("reheatd_proof_tokens_sum") == 34
    assert scrape("reheatd_proof_duration_seconds_sum") == pytest.approx(0.1)


def test_a_swap_says_how_it_went(tmp_path: Path) -> None:
    told: list[object] = []

    async def run() -> None:
        world = SwapWorld(tmp_path)
        world.swaps.on_flip = told.append
        world.swaps.on_refusal = told.append
        first, second = await world.publish(), await world.publish()
        result = await world.swaps.promote(first)
        world.engine.delivers[f"policy-v{second}"] = 0.0
        with pytest.raises(DeliveryError) as refused:
            await world.swaps.promote(second)
        assert told == [result, refused.value]
        assert isinstance(result.proof, Proof)
        assert 0 < result.proof_seconds < result.seconds

    asyncio.run(run())
