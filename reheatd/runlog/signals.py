"""Picks the signals that a diagnosis needs from a run's log."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from reheatd.errors import BadInputError
from reheatd.measures import Contract
from reheatd.runlog.log import RunLog
from reheatd.runlog.metric_names import SIGNALS, Signal, known

MOST_NAMES = 40
"""Metric names that an error lists at most."""

Series = dict[int, float]
"""Values by step, the steps in order; all of them finite."""


ENDS = 5
"""Logged values at each end of a signal whose mean says how it began and ended; of pass@k, which is rarely logged, it
is one."""


class SignalFigures(Contract):
    """How a signal began and ended."""

    metric: str
    """Its name in the log."""
    first: float
    """Mean of its first logged values."""
    last: float
    """Mean of its last logged values."""

    @classmethod
    def of(cls, signal: Signal, metric: str, series: Series) -> "SignalFigures":
        values, ends = list(series.values()), 1 if signal == "pass_at_k" else ENDS
        return cls(metric=metric, first=statistics.fmean(values[:ends]), last=statistics.fmean(values[-ends:]))


@dataclass(frozen=True)
class Signals:
    """The signals of a run."""

    trainer: str | None
    """The trainer whose name the entropy has; None if the user named the metric."""
    series: dict[Signal, Series]
    names: dict[Signal, str]
    """Name in the log of each signal in `series`."""
    notes: list[str] = field(default_factory=list)
    """What was left out, for the user."""

    def get(self, signal: Signal) -> Series:
        """The values of a signal; empty if it was not logged."""
        return self.series.get(signal, {})


def pick_signals(log: RunLog, overrides: Mapping[Signal, str] | None = None) -> Signals:
    """Picks the signals by the names in the table, or by those that the user gave.

    Args:
        overrides: Names of metrics that the user gave, by signal.

    Raises:
        BadInputError: A given name is not in the log, or the log holds no entropy that can be used; the message lists
            what it holds.
    """
    given = dict(overrides or {})
    for signal, name in given.items():
        if name not in log.metrics:
            raise BadInputError(
                f"{log.source} has no metric {name!r} for {signal}; it has {_listed(log)}", param="metric"
            )
    trainer = None
    found = Signals(None, {}, {})
    for signal in SIGNALS:  # entropy comes first
        if signal in given:
            name, complement = given[signal], False
        else:
            matching = known(signal, log.metrics, trainer)
            if matching is None:
                continue
            entry, names = matching
            if len(names) > 1:
                problem = f"{signal} may be any of {', '.join(sorted(names))}; name one with --metric {signal}=NAME"
                if signal == "entropy":
                    raise BadInputError(f"{log.source}: {problem}", param="metric")
                found.notes.append(problem)
                continue
            name, complement = names[0], entry.complement
            trainer = entry.trainer if signal == "entropy" else trainer
        values = log.metrics[name]
        finite = {step: 1 - value if complement else value for step, value in values.items() if math.isfinite(value)}
        if signal == "entropy" and not finite:
            raise BadInputError(f"{log.source}: none of the {len(values)} values of {name} is finite", param="run")
        if len(finite) < len(values):
            found.notes.append(
                f"{len(values) - len(finite)} of {len(values)} values of {name} are not finite and were left out"
            )
        if finite:
            found.series[signal], found.names[signal] = finite, name
    if "entropy" not in found.series:
        raise BadInputError(
            f"{log.source} holds no entropy under a known name; name the metric with --metric entropy=NAME. "
            f"It has {_listed(log)}",
            param="metric",
        )
    return Signals(trainer, found.series, found.names, found.notes)


def _listed(log: RunLog) -> str:
    names = sorted(log.metrics)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
