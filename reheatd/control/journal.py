"""What the control loop tells people: entries of its journal, and what it has paused."""

from typing import Literal

from reheatd.control.states import State
from reheatd.measures import Contract


class JournalEntry(Contract):
    """One entry of the journal.

    A `promoted` event says that `policy` means `version` from `time` on, a `resumed` event that somebody has looked at
    what was paused, and a `requested` event that somebody did what `reason` says; none of them changes the state.
    """

    id: int
    time: float
    """Seconds since the epoch."""
    event: Literal["transition", "promoted", "resumed", "requested"]
    from_state: State
    to_state: State
    reason: str
    job_id: str | None
    version: int | None
    """For a transition, the version that was served at that moment or that a job made; for a promotion, the new one."""
    actor: str | None = None
    """Name of the API key with which somebody asked for this, or `local` if no key was needed; None if the daemon
    decided it."""


class Pause(Contract):
    """Jobs that the daemon does not start by itself any more until somebody resumes."""

    what: Literal["reheats", "rounds"]
    """Jobs that answer a verdict, or rounds of continuous RL."""
    since: float
    """Seconds since the epoch."""
    why: str
