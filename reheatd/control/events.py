"""What happens in the daemon, told to everybody who follows it: entries of the journal, jobs, windows and verdicts.

    with hub.subscribe() as events:
        async for event in events:
            ...

Nobody who follows can hold up the daemon: it only notes what is new. What a slow follower has not taken is replaced by
what is newer, and beyond `MOST_PENDING` events the oldest are left out, which an `EventsMissed` then says. Entries of
the journal are read from the database instead, so that none of them is ever missed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Self

from reheatd.control.event_kinds import (
    EntryAdded,
    Event,
    EventsMissed,
    JobChanged,
    LiveWindowClosed,
    VerdictChanged,
    WindowMeasured,
)
from reheatd.control.journal import JournalEntry
from reheatd.control.ledger import Ledger
from reheatd.database import StateError
from reheatd.entropy.detector import Verdict
from reheatd.entropy.live import LiveWindow
from reheatd.entropy.series import Window
from reheatd.errors import BadInputError, NotFoundError, RateLimitError
from reheatd.jobs.contracts import Job

logger = logging.getLogger(__name__)

MOST_SUBSCRIPTIONS = 64
MOST_PENDING = 256
"""Events, besides entries of the journal, that wait for a slow follower."""


JOURNAL = "journal"
"""Key of the note that the journal has entries that a follower has not read."""


class EventHub:
    """Tells everybody who follows what happens. The methods that begin with `on_` are called where it happens.

    Args:
        job_of: Returns a job as it is now.
        verdict_now: Returns the promoted version and the verdict on it.
        most: How many may follow at once.
    """

    def __init__(
        self,
        ledger: Ledger,
        job_of: Callable[[str], Job],
        verdict_now: Callable[[], tuple[int, Verdict | None]],
        *,
        most: int = MOST_SUBSCRIPTIONS,
    ) -> None:
        self._ledger = ledger
        self._job_of = job_of
        self._verdict_now = verdict_now
        self._most = most
        self._subscriptions: list[Subscription] = []
        self._changed_jobs: dict[str, None] = {}
        self._verdict: tuple[int, Verdict | None] | None = None
        """What followers know of the verdict."""
        self._looks = False
        self.closed = asyncio.Event()
        """Set when the daemon stops, after which all subscriptions end."""

    def subscribe(self, after: int | None = None) -> "Subscription":
        """Follows what happens from now on, until the subscription is closed.

        Args:
            after: Number of an entry of the journal, whose later entries come first; default: the newest entry.

        Raises:
            RateLimitError: As many as may follow do already.
            BadInputError: The journal has no entry `after`.
        """
        newest = self._ledger.newest_id
        if after is not None and not 0 <= after <= newest:
            raise BadInputError(
                f"after = {after} is no entry of the journal, whose newest is {newest}; leave it out to follow from "
                "now on",
                param="after",
            )
        if len(self._subscriptions) >= self._most:
            raise RateLimitError(
                f"{len(self._subscriptions)} listeners follow the events, which is the limit; close one of them"
            )
        if not self._subscriptions:
            self._verdict = self._verdict_now()
        subscription = Subscription(self._ledger, newest if after is None else after, self._subscriptions.remove)
        self._subscriptions.append(subscription)
        if after is not None:
            subscription.put(JOURNAL, None)
        if self.closed.is_set():
            subscription.end()
        return subscription

    def close(self) -> None:
        """Ends all subscriptions, since the daemon stops."""
        self.closed.set()
        for subscription in self._subscriptions:
            subscription.end()

    def on_entry(self) -> None:
        """The journal gets an entry, in a transaction that is not over; `Ledger.on_entry` calls this."""
        self._tell(JOURNAL, None)
        self._look_soon()

    def on_job(self, job_id: str) -> None:
        """A job changes, perhaps in a transaction that is not over; `Ledger.on_job` calls this."""
        if self._subscriptions:
            self._changed_jobs[job_id] = None
            self._look_soon()

    def on_window(self, window: Window) -> None:
        """A window was recorded; `EntropyMonitor.on_window` calls this."""
        self._tell(("window", window.time), WindowMeasured(window=window))
        self._look_soon()

    def on_live_window(self, window: LiveWindow) -> None:
        """A window of live entropy was recorded; `LiveSeries.on_window` calls this."""
        self._tell(("live_window", window.time, window.version, window.source), LiveWindowClosed(window=window))

    def _look_soon(self) -> None:
        """Looks at what changed once the present step, and its transaction with it, is over."""
        if self._subscriptions and not self._looks:
            self._looks = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._looks = False
        changed, self._changed_jobs = self._changed_jobs, {}
        for job_id in changed:
            try:
                job = self._job_of(job_id).model_copy(deep=True)
            except (NotFoundError, StateError) as error:  # its record could not be stored
                logger.warning("a change of %s is not told: %s", job_id, error.message)
            else:
                self._tell(("job", job_id), JobChanged(job=job))
        verdict = self._verdict_now()
        if verdict != self._verdict:
            self._verdict = verdict
            self._tell("verdict", VerdictChanged(version=verdict[0], verdict=verdict[1]))

    def _tell(self, key: Hashable, event: Event | None) -> None:
        for subscription in self._subscriptions:
            subscription.put(key, event)


class Subscription:
    """One follower's view of what happens: an asynchronous iterator, which ends when the daemon stops.

    Args:
        after: Number of the newest entry of the journal that the follower knows.
        on_close: Called once with this subscription when it is closed.
    """

    def __init__(self, ledger: Ledger, after: int, on_close: Callable[["Subscription"], None]) -> None:
        self.after = after
        """Number of the newest entry of the journal that was read."""
        self._ledger = ledger
        self._on_close = on_close
        self._entries: deque[JournalEntry] = deque()
        self._pending: dict[Hashable, Event | None] = {}
        """What was not taken yet, in order; a newer event takes the place of an older one with the same key."""
        self._missed = 0
        self._news = asyncio.Event()
        self._is_over = self._is_closed = False

    def put(self, key: Hashable, event: Event | None) -> None:
        """Notes an event, or with the key `JOURNAL` and no event, that the journal has grown."""
        if key != JOURNAL:
            self._pending.pop(key, None)  # so that the order is that of the newest
        self._pending[key] = event
        if len(self._pending) > MOST_PENDING:
            oldest = next(key for key in self._pending if key != JOURNAL)
            del self._pending[oldest]
            self._missed += 1
        self._news.set()

    def end(self) -> None:
        """Ends the iteration, whatever was not taken yet."""
        self._is_over = True
        self._news.set()

    def close(self) -> None:
        """Stops following."""
        if not self._is_closed:
            self._is_closed = True
            self._on_close(self)
            self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event. If the caller is cancelled while it waits, nothing is lost."""
        while not self._is_over:
            if self._entries:
                return EntryAdded(entry=self._entries.popleft())
            await asyncio.sleep(0)  # others have their turn, however much there is to tell
            if self._missed:
                missed, self._missed = self._missed, 0
                return EventsMissed(count=missed)
            if not self._pending:
                if not self._is_over:
                    self._news.clear()
                    await self._news.wait()
                continue
            key = next(iter(self._pending))
            event = self._pending.pop(key)
            if event is not None:
                return event
            self._read_journal()
        raise StopAsyncIteration

    def _read_journal(self) -> None:
        """Reads the next part of the journal, and keeps the note about it until there is none."""
        entries = self._ledger.after(self.after)
        if entries:
            self.after = entries[-1].id
            self._entries.extend(entries)
            self._pending = {JOURNAL: None, **self._pending}
