"""Requests and swaps as Prometheus counts them."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from reheatd.adapters.evidence import Proof
from reheatd.errors import DeliveryError
from reheatd.gateway.app import Gateway
from reheatd.metrics.swaps import SwapMetrics
from reheatd.metrics.traffic import MOST_VERSIONS, Traffic
from tests.unit.test_adapters_swap import World as SwapWorld
from tests.unit.test_gateway import CHAT, World, in_world, served_by


class Scrape:
    """Reads a registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def watched(world: World) -> Scrape:
    """Puts a gateway whose requests are counted in place of the world's."""
    scrape = Scrape()
    world.gateway = Gateway(world.pool, world.slots, world.swaps, world.store, traffic=Traffic(scrape.registry))
    world.http = served_by(world.gateway, world.db)
    return scrape


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
        assert scrape("reheatd_request_duration_seconds_count", route=CHAT, source="client") == 3
        assert scrape("reheatd_time_to_first_token_seconds_count", route=CHAT, source="client") is None

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
        labels = {"route": CHAT, "source": "client"}
        assert scrape("reheatd_requests_total", **labels, version="policy-v0", status=status) == 1
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
    assert scrape("reheatd_time_between_tokens_seconds_sum", route=CHAT, source="client") == pytest.approx(1.0)


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


def test_swaps_are_counted_by_what_came_of_them() -> None:
    scrape = Scrape()
    swaps = SwapMetrics(scrape.registry)
    assert scrape("reheatd_swaps_total", result="promoted") == 0
    swaps.promoted(0.4, 34)
    swaps.promoted(0.2, None)
    swaps.refused(DeliveryError("not what was trained"))
    assert scrape("reheatd_swaps_total", result="promoted") == 2
    assert scrape("reheatd_swaps_total", result=DeliveryError.code) == 1
    assert scrape("reheatd_swap_duration_seconds_sum") == pytest.approx(0.6)
    assert scrape("reheatd_proof_tokens_sum") == 34


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

    asyncio.run(run())
