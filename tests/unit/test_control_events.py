"""The events that followers get: all entries of the journal, the newest of everything else, and an end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from reheatd.control import events, ledger
from reheatd.control.events import (
    EntryAdded,
    Event,
    EventHub,
    EventsMissed,
    JobChanged,
    LiveWindowClosed,
    Subscription,
    VerdictChanged,
    WindowMeasured,
)
from reheatd.entropy.live import LiveSeries
from reheatd.errors import BadInputError, RateLimitError
from reheatd.jobs.contracts import JobEvent, JobStatus
from tests.unit.control_figures import window
from tests.unit.control_support import REHEAT, World, finish_one, live


async def took(events: Subscription, count: int) -> list[Event]:
    async with asyncio.timeout(60):
        return [await anext(events) for _ in range(count)]


async def everything(events: Subscription) -> list[Event]:
    """What is there to be taken now."""
    found: list[Event] = []
    while True:
        try:
            async with asyncio.timeout(0.05):
                found.append(await anext(events))
        except TimeoutError:
            return found


def numbers(found: list[Event]) -> list[int]:
    return [event.entry.id for event in found if isinstance(event, EntryAdded)]


def test_a_job_from_its_submission_to_its_promotion(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.verdict = "collapsed"
        with world.events.subscribe() as following:
            job_id = await finish_one(world)
            found = await everything(following)
        statuses = [event.job.status for event in found if isinstance(event, JobChanged)]
        assert statuses[-1] is JobStatus.SUCCEEDED
        assert {event.job.job_id for event in found if isinstance(event, JobChanged)} == {job_id}
        assert numbers(found) == list(range(1, world.ledger.newest_id + 1))
        assert VerdictChanged(version=1, verdict="collapsed") in found

    live(World(tmp_path), story)


def test_progress_that_is_not_stored_yet_is_told(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        with world.events.subscribe() as following:
            for step in (1, 2, 3):
                await world.dispatcher.report(spec.job_id, JobEvent(kind="progress", phase="training", step=step))
                while True:
                    (event,) = await took(following, 1)
                    if isinstance(event, JobChanged) and event.job.step == step:
                        break
            assert event.job.job_id == job.job_id

    live(World(tmp_path), story)


def test_who_comes_back_gets_every_entry_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "ENTRIES_AT_ONCE", 3)

    async def story(world: World) -> None:
        for number in range(7):
            world.ledger.requested(f"request {number}")
        with world.events.subscribe(after=2) as following:
            assert numbers(await took(following, 3)) == [3, 4, 5]
            world.ledger.requested("while the journal is being read")
            assert numbers(await everything(following)) == [6, 7, 8]
        with pytest.raises(BadInputError, match="after = 9 is no entry"):
            world.events.subscribe(after=9)

    live(World(tmp_path), story)


def test_windows_of_both_kinds(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        series = LiveSeries(world.db, confidence=0.95)
        series.on_window = world.events.on_live_window
        with world.events.subscribe() as following:
            measured = window(0, "ok", 1.9)
            world.events.on_window(measured)
            series.add("policy-v0", "live", "tap", [1.0, 2.0])
            series.add("policy-v0", "live", "tap", [1.5])
            (closed,) = series.close_windows()
            assert await everything(following) == [WindowMeasured(window=measured), LiveWindowClosed(window=closed)]

    live(World(tmp_path), story)


def test_a_verdict_is_told_when_it_changes(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        verdicts: list[Any] = []
        with world.events.subscribe() as following:
            for verdict in ("ok", "ok", "collapsed"):
                world.monitor.verdict = verdict
                world.events.on_window(window(0, verdict, 1.0))
                verdicts += [each.verdict for each in await everything(following) if isinstance(each, VerdictChanged)]
        assert verdicts == ["ok", "collapsed"]

    live(World(tmp_path), story)


def test_a_slow_follower_misses_windows_but_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_PENDING", 5)

    async def story(world: World) -> None:
        with world.events.subscribe() as slow:
            for number in range(20):
                world.ledger.requested(f"request {number}")
                world.events.on_window(window(0, "ok", 1.0 + number))
                await asyncio.sleep(0)
            found = await everything(slow)
        means = [event.window.estimate.mean for event in found if isinstance(event, WindowMeasured)]
        missed = [event.count for event in found if isinstance(event, EventsMissed)]
        assert numbers(found) == list(range(1, 21))
        assert means == [1.0 + number for number in range(20)][-len(means) :]
        assert missed == [20 - len(means)] and len(means) < 6

    live(World(tmp_path), story)


def test_a_job_that_changes_often_is_told_as_it_is_now(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.crash()  # no control loop takes the job
        world._build()  # type: ignore[reportPrivateUsage]
        with world.events.subscribe() as slow:
            job = world.controller.submit(REHEAT)
            await asyncio.sleep(0)
            world.controller.cancel(job.job_id)
            found = [event for event in await everything(slow) if isinstance(event, JobChanged)]
        assert [event.job.status for event in found] == [JobStatus.CANCELLED]
        world.start()

    live(World(tmp_path), story)


def test_what_was_not_stored_is_not_told(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        with world.events.subscribe() as following:
            with pytest.raises(RuntimeError), world.db:
                world.ledger._append(  # type: ignore[reportPrivateUsage]
                    "requested", world.ledger.state, world.ledger.state, "never", None, None
                )
                raise RuntimeError("the disk is full")
            assert await everything(following) == []

    live(World(tmp_path), story)


def test_no_more_follow_than_may(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        hub = EventHub(world.ledger, world.controller.job, lambda: (0, None), most=2)
        first, second = hub.subscribe(), hub.subscribe()
        with pytest.raises(RateLimitError, match="2 listeners follow"):
            hub.subscribe()
        first.close()
        first.close()
        with hub.subscribe():
            second.close()

    live(World(tmp_path), story)


def test_all_end_when_the_daemon_stops(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        waiting = world.events.subscribe()
        ending = asyncio.create_task(everything_until_the_end(waiting))
        await asyncio.sleep(0)
        world.events.close()
        assert await asyncio.wait_for(ending, 60) == []
        assert await everything_until_the_end(world.events.subscribe(after=0)) == []

    live(World(tmp_path), story)


async def everything_until_the_end(events: Subscription) -> list[Event]:
    return [event async for event in events]
