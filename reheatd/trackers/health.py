"""How a tracker is, for people."""

from reheatd.measures import Contract


class TrackerHealth(Contract):
    """Whether a tracker takes what is sent to it."""

    name: str
    ok: bool
    detail: str
    """One line of explanation; empty if there is nothing to say."""
    waiting: list[str]
    """Jobs of which it has not taken everything, because it failed; they are sent again."""
    lost: dict[str, str]
    """Jobs that were given up, with the reason; the newest ones."""
