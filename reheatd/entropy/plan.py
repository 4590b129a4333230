"""The cost of an interval of a wanted width, by the number of top logprobs that are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass

from reheatd.engine.client import EngineClient
from reheatd.entropy.meter import EntropyMeter
from reheatd.entropy.probes import ProbeSet
from reheatd.errors import BadInputError
from reheatd.measures import EntropyEstimate, t_quantile

TOP_KS = (5, 20, 63)


@dataclass(frozen=True)
class PlannedWindow:
    """A window whose interval has the wanted width."""

    top_k: int
    """Top logprobs per token; 0 means Monte Carlo, which needs only the sampled token's logprob."""
    width_now: float
    """Width of the measured window's interval, in nats."""
    probes: int
    """Sequences that the wanted width takes."""
    tokens: int
    seconds: float
    """Time that the window takes on an engine as busy as it was when it was measured."""


async def plan_windows(
    client: EngineClient, model: str, probes: ProbeSet, *, width: float, max_tokens: int, confidence: float, seed: int
) -> list[PlannedWindow]:
    """Measures one window for each k and computes how many probes would narrow its interval to `width`.

    The width shrinks with the root of the number of sequences. How much sequences differ is taken from the window.

    Args:
        width: Upper minus lower confidence limit, in nats per token.

    Raises:
        BadInputError: The width is not above 0.
        EngineError: A probe could not be sampled.
    """
    if not width > 0:
        raise BadInputError(f"width = {width} is not above 0; name one in nats per token, e.g. 0.1", param="width")
    planned: list[PlannedWindow] = []
    for top_k in TOP_KS:
        meter = EntropyMeter(client, probes, max_tokens=max_tokens, top_k=top_k, confidence=confidence)
        window = await meter.measure(model, seed=seed)
        if not planned:
            planned.append(_extrapolated(0, window.monte_carlo, window.seconds, width, confidence))
        planned.append(_extrapolated(top_k, window.estimate, window.seconds, width, confidence))
    return planned


def _extrapolated(
    top_k: int, measured: EntropyEstimate, seconds: float, width: float, confidence: float
) -> PlannedWindow:
    now = measured.high - measured.low
    # Twice the standard deviation of one sequence's contribution to the mean.
    spread = now / t_quantile(measured.sequences - 1, confidence) * measured.sequences**0.5
    probes = next(count for count in _counts() if spread * t_quantile(count - 1, confidence) / count**0.5 <= width)
    return PlannedWindow(
        top_k=top_k,
        width_now=now,
        probes=probes,
        tokens=round(probes * measured.tokens / measured.sequences),
        seconds=seconds * probes / measured.sequences,
    )


def _counts() -> Iterator[int]:
    """Yields 2, 3, 4, ... in steps of one, or of a hundredth where that is more."""
    count = 2
    while True:
        yield count
        count += max(1, count // 100)
