"""How often adapters are swapped under load, and when they are not."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Turns without and with swaps. They alternate, so that whatever else the machine does affects both."""

    swaps: int
    """Number of swaps, in all turns together."""
    blocks: int
    """Number of turns."""
    streams: int = 8
    control_s: float = 10.0
    """Length of a turn without swaps, in seconds."""
    swap_every_s: float = 6.0
    """Least time from swap to swap; a swap that takes longer is followed by the next one at once."""
    settle_s: float = 4.0
    """Time from the first request to the first turn."""
