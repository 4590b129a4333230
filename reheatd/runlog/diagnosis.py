"""Judges a run by what its trainer logged: healthy, collapsed, too hot or stalled, and since which step. Pure.

The thresholds are those of the daemon (`reheatd.entropy.regime`, arXiv 2606.00755). A logged entropy has no interval of
its own, so `WINDOW` logged steps in a row make one window, whose interval comes from how they differ.
"""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reheatd.config_tables import EntropySection
from reheatd.entropy.regime import Run, Thresholds, thresholds
from reheatd.errors import BadInputError
from reheatd.measures import Contract, t_quantile
from reheatd.runlog.learning import Stall, find_stall, learning_notes
from reheatd.runlog.metric_names import Signal
from reheatd.runlog.signals import Series, SignalFigures, Signals

RunVerdict = Literal["healthy", "collapsed", "too_hot", "stalled"]

WINDOW = 5
"""Logged steps of a window."""
CONFIDENCE = 0.95

ADVICE: dict[RunVerdict, str] = {
    "healthy": "Go on.",
    "collapsed": (
        "Reheat the policy to about {target:.2f} nats and continue RL with the same settings, or go back to a "
        "checkpoint from before step {since}."
    ),
    "too_hot": (
        "Stop the run and go back to a checkpoint from before step {since}; then lower what raises entropy there, such "
        "as an entropy bonus, the learning rate or an upper clip."
    ),
    "stalled": (
        "More steps of the same kind teach nothing; reheat the policy if the problems are ones that it could solve "
        "once, and otherwise give it problems of which it solves some."
    ),
}


class Diagnosis(Contract):
    """The verdict on a run, with the figures behind it. Entropies are in nats per token."""

    verdict: RunVerdict
    since_step: int | None
    """First step of the state that the run ended in; None if it is healthy."""
    reason: str
    """What the verdict is based on, in one sentence."""
    advice: str
    first_step: int
    last_step: int
    entropy_nats: float
    """Mean of the last logged entropies."""
    baseline_nats: float
    baseline_given: bool
    """Whether the user gave the baseline; otherwise it is the median of the first logged entropies."""
    stable_nats: float | None
    """Entropy of the run's stable phase; None if it had none."""
    collapsed_below_nats: float
    warning_below_nats: float
    too_hot_above_nats: float | None
    trainer: str | None
    """Trainer whose names the metrics have, where they are known ones."""
    signals: dict[Signal, SignalFigures]
    notes: list[str]
    """What else is worth knowing."""


@dataclass(frozen=True)
class Stretch:
    """Logged steps in a row with the same verdict on their entropy."""

    verdict: Literal["ok", "warning", "collapsed", "too_hot"]
    since: int
    """Its first step."""
    limits: Thresholds
    """The thresholds at its end."""


def diagnose(signals: Signals, settings: EntropySection, baseline_nats: float | None = None) -> Diagnosis:
    """Judges a run.

    Args:
        settings: Thresholds, patience and the number of logged steps that make the baseline.
        baseline_nats: Entropy of the base policy, in nats per token; default: the first logged entropies.

    Raises:
        BadInputError: There are too few entropies, or they are none.
    """
    entropy = signals.get("entropy")
    if len(entropy) < WINDOW:
        reason = f"{signals.names['entropy']} has {len(entropy)} values; a diagnosis needs {WINDOW}"
        raise BadInputError(reason, param="run")
    baseline = _first_entropy(signals, settings) if baseline_nats is None else baseline_nats
    stretches, stable = _stretches(entropy, settings, baseline)
    state = stretches[-1]
    stall = find_stall(signals, settings)
    verdict: RunVerdict = "healthy"
    if state.verdict in ("collapsed", "too_hot"):
        verdict = state.verdict
    elif stall is not None:
        verdict = "stalled"
    since = {"healthy": None, "stalled": stall and stall.since}.get(verdict, state.since)
    steps = list(entropy)
    if stable is not None and stable < state.limits.collapsed:
        stable = None  # it settled only after it had collapsed
    return Diagnosis(
        verdict=verdict,
        since_step=since,
        reason=_reason(verdict, state, stall, _end(entropy)),
        advice=ADVICE[verdict].format(since=since, target=state.limits.target),
        first_step=steps[0],
        last_step=steps[-1],
        entropy_nats=_end(entropy),
        baseline_nats=baseline,
        baseline_given=baseline_nats is not None,
        stable_nats=stable,
        collapsed_below_nats=state.limits.collapsed,
        warning_below_nats=state.limits.warning,
        too_hot_above_nats=state.limits.too_hot,
        trainer=signals.trainer,
        signals={
            signal: SignalFigures.of(signal, signals.names[signal], values) for signal, values in signals.series.items()
        },
        notes=[
            *signals.notes,
            *_baseline_notes(steps, settings, baseline, baseline_nats is not None),
            *_stretch_notes(stretches),
            *learning_notes(signals, stall if verdict != "stalled" else None),
        ],
    )


def _first_entropy(signals: Signals, settings: EntropySection) -> float:
    values = list(signals.get("entropy").values())
    baseline = statistics.median(values[: settings.baseline_windows])
    if baseline <= 0:
        raise BadInputError(
            f"{signals.names['entropy']} begins at {baseline:g}, which is no entropy of a policy; name the right "
            "metric with --metric entropy=NAME, or the base policy's entropy with --baseline-nats",
            param="metric",
        )
    return baseline


def _stretches(entropy: Series, settings: EntropySection, baseline: float) -> tuple[list[Stretch], float | None]:
    """The stretches of a run, the oldest first, and the entropy of its stable phase."""
    steps, values = list(entropy), list(entropy.values())
    run = Run()
    found: list[Stretch] = []
    low = high = 0
    quantile = t_quantile(WINDOW - 1, CONFIDENCE) / WINDOW**0.5
    for end in range(WINDOW, len(values) + 1):
        window = values[end - WINDOW : end]
        mean = statistics.fmean(window)
        half = quantile * statistics.stdev(window)
        if end % WINDOW == 0:
            run = run.followed_by(mean, baseline)
        # A run that has been stable is too hot when it runs away from there, not only from its lowest entropy.
        limits = thresholds(settings, baseline=baseline, stable=run.stable, lowest=run.stable or run.lowest)
        low = low + 1 if mean + half < limits.collapsed else 0
        high = high + 1 if limits.too_hot is not None and mean - half > limits.too_hot else 0
        before = found[-1].verdict if found else "ok"
        verdict = _verdict(before, mean, limits, low >= settings.patience, high >= settings.patience, settings.margin)
        if found and verdict == before:
            found[-1] = Stretch(verdict, found[-1].since, limits)
        else:
            began = _first_beyond(steps, values, end - WINDOW - max(low, high, 1) + 1, verdict, limits)
            found.append(Stretch(verdict, began, limits))
    return found, run.stable


def _verdict(
    before: str, mean: float, limits: Thresholds, low: bool, high: bool, margin: float
) -> Literal["ok", "warning", "collapsed", "too_hot"]:
    if low or (before == "collapsed" and mean <= limits.warning):
        return "collapsed"
    if high or (before == "too_hot" and limits.too_hot is not None and mean > limits.too_hot / (1 + margin)):
        return "too_hot"
    return "warning" if mean < limits.warning else "ok"


def _first_beyond(steps: Sequence[int], values: Sequence[float], begin: int, verdict: str, limits: Thresholds) -> int:
    """The first step from `begin` on whose entropy is beyond the threshold of the verdict."""
    begin = max(0, begin)
    for step, value in zip(steps[begin:], values[begin:], strict=True):
        beyond = {
            "collapsed": value < limits.collapsed,
            "too_hot": limits.too_hot is not None and value > limits.too_hot,
            "warning": value < limits.warning,
        }
        if beyond.get(verdict, True):
            return step
    return steps[-1]


def _reason(verdict: RunVerdict, state: Stretch, stall: Stall | None, entropy: float) -> str:
    limits = state.limits
    floor = f"the collapse threshold of {limits.collapsed:.3f} ({limits.because})"
    if verdict == "collapsed":
        if entropy < limits.collapsed:
            return f"Entropy is {entropy:.3f} nats, below {floor}."
        return f"Entropy is {entropy:.3f} nats; it fell below {floor} and is not back above {limits.warning:.3f}."
    if verdict == "too_hot":
        return f"Entropy is {entropy:.3f} nats; it has run away above {limits.too_hot:.3f}."
    return f"Entropy is {entropy:.3f} nats, above {floor}." if stall is None else stall.reason


def _baseline_notes(steps: Sequence[int], settings: EntropySection, baseline: float, given: bool) -> list[str]:
    if given:
        return []
    notes = []
    if steps[0] > 2 * (steps[1] - steps[0]):
        notes.append(
            f"the log begins at step {steps[0]}, so the baseline may not be the base policy's entropy; name that with "
            "--baseline-nats"
        )
    if baseline < 2 * settings.collapse_nats:
        notes.append(
            f"the run begins at {baseline:.3f} nats, which is low for a base policy; if it does not begin with one, "
            "name the base policy's entropy with --baseline-nats"
        )
    return notes


def _stretch_notes(stretches: Sequence[Stretch]) -> list[str]:
    notes = [
        f"{stretch.verdict.replace('_', ' ')} from step {stretch.since} to {after.since}"
        for stretch, after in itertools.pairwise(stretches)
        if stretch.verdict in ("collapsed", "too_hot")
    ]
    last = stretches[-1]
    if last.verdict == "warning":
        notes.append(
            f"entropy is near the collapse threshold since step {last.since}, below {last.limits.warning:.3f} nats"
        )
    return notes


def _end(values: Series) -> float:
    return statistics.fmean(list(values.values())[-WINDOW:])
