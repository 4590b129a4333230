"""Live fragments: one rendering for all readers, only changes are sent, and an end for everything."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import cast

import pytest
from starlette.responses import StreamingResponse

from reheatd.dashboard import live
from reheatd.dashboard.live import Live, TooManyPagesError


class Fragment:
    """What is rendered, and how often it was."""

    def __init__(self) -> None:
        self.html = "<p>one</p>"
        self.renderings = 0
        self.error: Exception | None = None

    async def render(self) -> str:
        self.renderings += 1
        if self.error is not None:
            raise self.error
        return self.html


def tell(story: Callable[[Live, Fragment], Coroutine[None, None, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TICK_S", 0.001)
    asyncio.run(story(Live(), Fragment()))


def events(served: Live, fragment: Fragment, name: str = "now") -> AsyncGenerator[str, None]:
    answer = cast(StreamingResponse, served.answer(name, fragment.render))
    assert answer.media_type == "text/event-stream"
    return cast(AsyncGenerator[str, None], answer.body_iterator)


def test_only_changes_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(served: Live, fragment: Fragment) -> None:
        stream = events(served, fragment)
        assert await anext(stream) == "data: <p>one</p>\n\n"
        following = asyncio.ensure_future(anext(stream))
        rendered = fragment.renderings
        while fragment.renderings < rendered + 5:
            await asyncio.sleep(0.001)
        assert not following.done()
        fragment.html = "<p>two\nlines</p>"
        assert await following == "data: <p>two\ndata: lines</p>\n\n"

    tell(story, monkeypatch)


def test_readers_share_one_rendering_and_the_last_one_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(served: Live, fragment: Fragment) -> None:
        other = Fragment()
        first, second = events(served, fragment), events(served, other)
        assert await anext(first) == await anext(second) == "data: <p>one</p>\n\n"
        assert other.renderings == 0 and served.readers == 2
        await first.aclose()
        fragment.html = "<p>two</p>"
        assert await anext(second) == "data: <p>two</p>\n\n"
        await second.aclose()
        assert served.readers == 0
        rendered = fragment.renderings
        await asyncio.sleep(0.02)
        assert fragment.renderings == rendered, "nobody looks, so nothing is rendered"

    tell(story, monkeypatch)


def test_a_slow_reader_skips_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(served: Live, fragment: Fragment) -> None:
        slow, quick = events(served, fragment), events(served, fragment)
        await anext(slow)
        await anext(quick)
        for number in range(5):
            fragment.html = f"<p>{number}</p>"
            await anext(quick)
        assert await anext(slow) == "data: <p>4</p>\n\n"

    tell(story, monkeypatch)


def test_streams_end_when_the_daemon_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(served: Live, fragment: Fragment) -> None:
        stream = events(served, fragment)
        await anext(stream)
        following = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        served.close()
        with pytest.raises(StopAsyncIteration):
            await following
        assert served.readers == 0
        with pytest.raises(StopAsyncIteration):
            await anext(events(served, fragment))

    tell(story, monkeypatch)


def test_a_silent_stream_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.01)

    async def story(served: Live, fragment: Fragment) -> None:
        stream = events(served, fragment)
        seen = {await anext(stream) for _ in range(3)}
        assert ": still here\n\n" in seen

    tell(story, monkeypatch)


def test_there_is_a_limit_to_open_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_READERS", 2)

    async def story(served: Live, fragment: Fragment) -> None:
        streams = [events(served, fragment, name) for name in ("now", "jobs")]
        for stream in streams:
            await anext(stream)
        with pytest.raises(TooManyPagesError, match="2 pages are open"):
            served.answer("now", fragment.render)
        await streams[0].aclose()
        await anext(events(served, fragment))

    tell(story, monkeypatch)


def test_a_fragment_that_cannot_be_made_ends_its_streams_and_can_be_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(served: Live, fragment: Fragment) -> None:
        stream = events(served, fragment)
        await anext(stream)
        fragment.error = ValueError("no such figure")
        with caplog.at_level(logging.ERROR), pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert "browsers ask for it again" in caplog.text
        fragment.error = None
        assert await anext(events(served, fragment)) == "data: <p>one</p>\n\n"

    tell(story, monkeypatch)
