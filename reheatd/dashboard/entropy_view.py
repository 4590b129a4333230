"""What of the entropy series a reader of its page asks for, in the query of the page's address."""

import math
import time
from dataclasses import dataclass
from typing import get_args
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from reheatd.entropy.live import MeasuredBy
from reheatd.errors import BadInputError

SOURCES = {
    "probe": "Probes",
    "rollout": "Rollouts of jobs",
    "live": "Clients",
    "tap": "Probes, exactly, as the engine's tap sees them",
}
"""The sources by the name that they have in the query. Verdicts are about the first."""
WAYS: dict[MeasuredBy, str] = {
    "tap": "exactly, in the engine (tap)",
    "control_variate": "from top logprobs (control variate)",
    "monte_carlo": "from sampled logprobs (Monte Carlo)",
    "plug_in": "by a model of the tail (plug-in)",
}
PERIODS = {"": "All", "3600": "Last hour", "86400": "Last day", "604800": "Last 7 days", "2592000": "Last 30 days"}
"""Periods by their length in seconds."""
LATEST = 1e11
"""No time is later than this, in seconds since the epoch."""
ROUNDED_S = 10.0
"""Periods that end now begin at multiples of this, so that readers who look at once get the same answer."""


@dataclass(frozen=True)
class View:
    """A part of the series. All parts are in the order of the tables above, so equal views are equal."""

    sources: tuple[str, ...] = ("probe",)
    ways: tuple[MeasuredBy, ...] = tuple(WAYS)
    """Ways of measuring of rollouts and clients."""
    period: str = ""
    """Length of a period that ends now, in seconds; empty for all. `start` and `end` come before it."""
    start: float | None = None
    """In seconds since the epoch; None for no limit."""
    end: float | None = None

    @classmethod
    def of(cls, query: QueryParams) -> "View":
        """The view that a query asks for.

        Raises:
            BadInputError: A parameter has a value that it cannot have; `param` names it.
        """
        sources, ways = query.getlist("source"), query.getlist("by")
        for name, given, known in (("source", sources, SOURCES), ("by", ways, get_args(MeasuredBy))):
            for value in given:
                if value not in known:
                    raise BadInputError(f"{name} = {value[:80]!r} is none of {', '.join(known)}", param=name)
        period = query.get("period", "")
        if period not in PERIODS:
            raise BadInputError(
                f"period = {period[:80]!r} is none of {', '.join(filter(None, PERIODS))}, in seconds", param="period"
            )
        start, end = _moment(query, "start"), _moment(query, "end")
        if start is not None and end is not None and start > end:
            raise BadInputError(f"start = {start:g} is after end = {end:g}", param="start")
        return cls(
            sources=tuple(name for name in SOURCES if name in sources) or cls.sources,
            ways=tuple(way for way in WAYS if way in ways) or cls.ways,
            period=period,
            start=start,
            end=end,
        )

    @property
    def is_part(self) -> bool:
        """Whether the view has a beginning or an end of its own."""
        return self.start is not None or self.end is not None

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """The first and the last moment, in seconds since the epoch; None for no limit."""
        if self.is_part or not self.period:
            return self.start, self.end
        return time.time() // ROUNDED_S * ROUNDED_S - float(self.period), None

    def query(self, **changed: object) -> str:
        """The query of this view, in which some fields are changed."""
        view = View(**{**vars(self), **changed})  # pyright: ignore[reportArgumentType]
        pairs = [("source", source) for source in view.sources]
        pairs += [("by", way) for way in view.ways if view.ways != View.ways]
        pairs += [("period", view.period)] if view.period else []
        pairs += [(name, f"{value:.3f}") for name, value in (("start", view.start), ("end", view.end)) if value]
        return urlencode(pairs)


def _moment(query: QueryParams, name: str) -> float | None:
    text = query.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= LATEST:
        raise BadInputError(f"{name} = {text[:80]!r} is no time in seconds since the epoch", param=name)
    return value
