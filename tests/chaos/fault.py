"""One fault of the matrix: it is injected while clients ask, and what it did is held against what it may do."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.chaos.arena import Arena
from tests.chaos.load import Away, Load, Outage, Request, eventually
from tests.chaos.scoreboard import Row
from tests.waiting import HANGS_S


class Fault:
    """A fault that is being injected; made by `under_load`."""

    def __init__(self, arena: Arena, load: Load, row: Row) -> None:
        self.arena = arena
        self.load = load
        self._row = row
        self._began: float | None = None

    def inject(self, act: Callable[[], object]) -> None:
        """Injects the fault, once or once more."""
        self._began = self._began or time.monotonic()
        self._row.injected += 1
        act()

    def recovered(self) -> None:
        """Notes that service and job are where they should be."""
        assert self._began is not None, "nothing was injected"
        self._row.recovered_s = time.monotonic() - self._began

    @contextmanager
    def takes_away(self, what: Away) -> Iterator[Outage]:
        """A context in which requests may fail, as far as that cannot be avoided without `what`.

        It ends when every client has had an answer again.
        """
        outage = Outage(what, time.monotonic())
        self.load.outages.append(outage)
        yield outage
        since = time.monotonic()
        eventually(lambda: self.load.has_answered_all_since(since), "every client is answered again", HANGS_S)
        outage.ended = time.monotonic()


@contextmanager
def under_load(arena: Arena, row: Row) -> Iterator[Fault]:
    """Injects a fault inside the context, while clients ask, and checks at its end what it did.

    Raises:
        AssertionError: A request failed that need not have, a version was lost, a job took effect twice, or the service
            does not answer.
    """
    before = arena.archive.promoted()
    with Load(arena.url) as load:
        begin = time.monotonic()
        eventually(lambda: load.has_answered_all_since(begin), "every client is answered before the fault", HANGS_S)
        fault = Fault(arena, load, row)
        try:
            yield fault
            settled = time.monotonic()
            eventually(lambda: load.has_answered_all_since(settled), "every client is answered at the end", HANGS_S)
        finally:
            row.sent, row.failed = len(load.requests), len(load.failed)
            row.unavoidable = row.failed - len(load.unexplained)
    evidence = arena.archive.inspect()
    row.lost, row.duplicated = evidence.lost, evidence.duplicated
    assert row.recovered_s is not None, "the test did not say when it was over"
    assert not load.unexplained, "\n".join(map(str, load.unexplained[:10]))
    assert not evidence.lost and not evidence.duplicated, evidence
    assert not evidence.unfinished and not evidence.leftovers, evidence
    after = arena.archive.promoted()
    # A database that was lost begins again, at the base.
    versions = before[-1:] + (after[len(before) :] if after[: len(before)] == before else after)
    served = {request.version for request in load.requests if request.whole}
    assert served <= {f"policy-v{version}" for version in versions}, f"{served} answered, promoted were {versions}"
    mixed = [request for request in load.requests if request.whole and not _comes_from_its_version(request)]
    assert not mixed, f"{mixed[:3]} came from another version than their header says"


def _comes_from_its_version(request: Request) -> bool:
    """Whether the engine's name of the model is that of the version; it may go on after that, with a digest."""
    expected = "base" if request.version == "policy-v0" else request.version or "?"
    return request.model == expected or (request.model or "").startswith(f"{expected}-")
