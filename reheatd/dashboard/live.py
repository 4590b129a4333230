"""Keeps open pages up to date by server-sent events: a fragment is rendered once for all who look at it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.responses import Response, StreamingResponse

from reheatd.errors import ReheatdError

logger = logging.getLogger(__name__)

Render = Callable[[], Awaitable[str]]

TICK_S = 1.0
"""Time between two renderings while somebody looks, in seconds."""
HEARTBEAT_S = 15.0
"""Longest silence on a stream, so that no proxy takes it for dead, in seconds."""
MOST_READERS = 200


class TooManyPagesError(ReheatdError):
    """More pages are open than the daemon keeps up to date.

    What to do: Close some of them; a page that is not kept up to date shows the present state when it is loaded again.
    """

    code = "too_many_pages"
    status = 503


class Live:
    """Sends fragments to open pages whenever they change. A slow reader skips what it has missed."""

    def __init__(self) -> None:
        self._topics: dict[str, _Topic] = {}
        self._closed = False

    @property
    def readers(self) -> int:
        """Number of open pages."""
        return sum(topic.readers for topic in self._topics.values())

    def answer(self, name: str, render: Render) -> Response:
        """The stream of a fragment.

        Args:
            name: Names the fragment; of two readers of the same one, the first one's `render` serves both.
            render: Makes the fragment.

        Raises:
            TooManyPagesError: `MOST_READERS` pages are open already.
        """
        if self.readers >= MOST_READERS:
            raise TooManyPagesError(f"{MOST_READERS} pages are open, which is the limit; close some")
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._events(name, render), media_type="text/event-stream", headers=headers)

    def close(self) -> None:
        """Ends all streams, since a drain would wait for them."""
        self._closed = True
        for topic in self._topics.values():
            topic.wake()

    async def _events(self, name: str, render: Render) -> AsyncIterator[str]:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _Topic(render)
        topic.readers += 1
        seen = 0
        try:
            while not (self._closed or topic.failed):
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await topic.news(seen)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if topic.number != seen:
                    seen = topic.number
                    yield "".join(f"data: {line}\n" for line in topic.html.splitlines()) + "\n"
        finally:
            topic.readers -= 1
            if not topic.readers and self._topics.get(name) is topic:
                del self._topics[name]
                topic.stop()


class _Topic:
    """A fragment that somebody looks at."""

    def __init__(self, render: Render) -> None:
        self.readers = 0
        self.html = ""
        self.number = 0
        """Number of the newest rendering that differs from the one before."""
        self.failed = False
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(render), name="live page")
        self._task.add_done_callback(self._done)

    async def news(self, seen: int) -> None:
        """Waits until there is a rendering other than number `seen`, or a reason to end."""
        if self.number == seen:
            await self._changed.wait()

    def wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def stop(self) -> None:
        self._task.cancel()

    async def _run(self, render: Render) -> None:
        while True:
            html = await render()
            if html != self.html:
                self.html = html
                self.number += 1
                self.wake()
            await asyncio.sleep(TICK_S)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a live page failed; browsers ask for it again", exc_info=error)
            self.failed = True
            self.wake()
