"""Signals of versions, as tests hand them in."""

from reheatd.signal import Signal
from workers.evaluation import pass_rate

ANSWERS = 16


def signal(*rewarded: int, lost: int = 40) -> Signal:
    """A signal on `lost` problems, the first of which have so many rewarded answers."""
    counts = [*rewarded, *[0] * (lost - len(rewarded))]
    return Signal(
        problems=64,
        lost=lost,
        answers=ANSWERS,
        rewarded=counts,
        varied=sum(0 < count < ANSWERS for count in counts),
        success=pass_rate(counts, ANSWERS, 1) if counts else None,
        samples=lost * ANSWERS,
    )
