"""The kinds of events that `reheatd.control.events` tells."""

from typing import Literal

from reheatd.control.journal import JournalEntry
from reheatd.entropy.detector import Verdict
from reheatd.entropy.windows import LiveWindow, Window
from reheatd.jobs.contracts import Job
from reheatd.measures import Contract


class EntryAdded(Contract):
    """The journal has a new entry."""

    kind: Literal["journal"] = "journal"
    entry: JournalEntry


class JobChanged(Contract):
    """A job is new, or its status or progress changed. Of changes that come fast, the newest is told."""

    kind: Literal["job"] = "job"
    job: Job


class WindowMeasured(Contract):
    """A window of the daemon's own entropy measurement was recorded."""

    kind: Literal["window"] = "window"
    window: Window


class LiveWindowClosed(Contract):
    """A window of the entropy of what the policy really decodes was recorded."""

    kind: Literal["live_window"] = "live_window"
    window: LiveWindow


class VerdictChanged(Contract):
    """The verdict on the promoted version changed, or another version is promoted."""

    kind: Literal["verdict"] = "verdict"
    version: int
    """The promoted version."""
    verdict: Verdict | None
    """None until a window of this version has been recorded."""


class EventsMissed(Contract):
    """This follower was too slow, so that events were left out. None of them was an entry of the journal."""

    kind: Literal["missed"] = "missed"
    count: int


Event = EntryAdded | JobChanged | WindowMeasured | LiveWindowClosed | VerdictChanged | EventsMissed
