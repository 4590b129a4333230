"""The learning signal in a run's log: stalls, falling reward and spikes of the gradient norm. Pure."""

import statistics
from dataclasses import dataclass

import numpy as np

from reheatd.config_tables import EntropySection
from reheatd.entropy.regime import SignalStep, is_stalled
from reheatd.runlog.signals import Series, Signals

FLAT_STEPS = 200
"""Logged steps in which a reward must rise."""
FLAT_RISE = 0.05
"""Least rise in these steps, as a share of how far the reward has come in the whole run."""
SMOOTH = 20
"""Logged steps over which a reward is averaged before its highest and lowest values are compared."""
FALL = 0.1
"""A reward has fallen if it is this share of its span below its highest value."""
SPIKE = 5.0
"""A gradient norm spikes above this many times the median of those before."""
SPIKE_MEMORY = 50
SPIKE_LEAST = 10
"""Gradient norms before one that can be called a spike: at most, and at least."""


@dataclass(frozen=True)
class Stall:
    """A run from whose rollouts nothing is learned any more."""

    since: int
    reason: str


def find_stall(signals: Signals, settings: EntropySection) -> Stall | None:
    """The stall that a run ended in; None if it did not.

    Groups that vary are the learning signal. A reward that does not rise counts only where no group shares were logged.
    """
    steps = signal_steps(signals)
    if not steps:
        return _flat_reward(signals.get("reward"))
    history = list(steps.values())
    end = len(history)
    if not is_stalled(history, settings):
        return None
    while end > settings.stall_steps and is_stalled(history[: end - 1], settings):
        end -= 1
    since = list(steps)[end - settings.stall_steps]
    newest = history[-settings.stall_steps :]
    varied = statistics.fmean(step.varied for step in newest)
    if signals.get("all_fail"):
        failed = statistics.fmean(step.all_fail for step in newest)
        return Stall(since, f"{failed:.0%} of the groups of rollouts fail as a whole and {varied:.0%} vary.")
    reward = signals.get("reward")
    level = f"; reward is {statistics.fmean(list(reward.values())[-SMOOTH:]):.3g}" if reward else ""
    return Stall(
        since, f"{varied:.0%} of the groups of rollouts vary; whether the others fail or pass is not logged{level}."
    )


def signal_steps(signals: Signals) -> dict[int, SignalStep]:
    """The shares of groups by step; empty if none were logged.

    Where passing and failing groups are not told apart, groups without variance count as failing. Where only failing
    groups were logged, all others count as varied.
    """
    equal, failed, passed = (signals.get(name) for name in ("zero_variance", "all_fail", "all_pass"))
    logged = [series for series in (equal, failed, passed) if series]
    if not equal and not failed:
        return {}
    found = {}
    for step in sorted(set.intersection(*(set(series) for series in logged))):
        all_pass = passed.get(step, max(0.0, equal[step] - failed[step]) if equal and failed else 0.0)
        all_fail = failed.get(step, max(0.0, equal.get(step, 0.0) - all_pass))
        varied = 1 - (equal[step] if equal else all_fail + all_pass)
        found[step] = SignalStep(varied=varied, all_fail=all_fail, all_pass=all_pass)
    return found


def learning_notes(signals: Signals, stall: Stall | None) -> list[str]:
    """What is worth knowing of a run beside its verdict.

    Args:
        stall: A stall that the verdict does not name.
    """
    notes = [] if stall is None else [f"stalled since step {stall.since}: {stall.reason}"]
    newest = list(signal_steps(signals).values())[-SMOOTH:]
    if newest and statistics.fmean(step.all_pass for step in newest) > 0.9:
        notes.append("the policy solves nearly all of its problems; harder ones would teach more")
    notes += _falling_reward(signals.get("reward")) + _spikes(signals.get("grad_norm"))
    return notes + _could_be_had_back(signals)


def _flat_reward(reward: Series) -> Stall | None:
    if len(reward) < FLAT_STEPS:
        return None
    newest = list(reward.values())[-FLAT_STEPS:]
    span = max(_smooth(reward).values()) - min(_smooth(reward).values())
    coefficients, covariance = np.polyfit(range(FLAT_STEPS), newest, deg=1, cov=True)
    rise, error = FLAT_STEPS * coefficients[0], FLAT_STEPS * covariance[0, 0] ** 0.5
    if rise + 2 * error > FLAT_RISE * span:
        return None
    since = list(reward)[-FLAT_STEPS]
    return Stall(
        since, f"Reward has not risen in the last {FLAT_STEPS} logged steps; it is {statistics.fmean(newest):.3g}."
    )


def _falling_reward(reward: Series) -> list[str]:
    if len(reward) < 2 * SMOOTH:
        return []
    smooth = _smooth(reward)
    best = max(smooth, key=lambda step: smooth[step])
    span = smooth[best] - min(smooth.values())
    last = list(smooth.values())[-1]
    noise = statistics.stdev(list(reward.values())[-SMOOTH:]) / SMOOTH**0.5
    if smooth[best] - last < max(FALL * span, 4 * noise):
        return []
    return [f"reward has fallen from {smooth[best]:.3g} about step {best} to {last:.3g}"]


def _could_be_had_back(signals: Signals) -> list[str]:
    """How much of what the base solved is out of the policy's reach, by what the trainer evaluated itself."""
    pass_at_k, entropy = signals.get("pass_at_k"), signals.get("entropy")
    if len(pass_at_k) < 2:
        return []
    (begin, base), (end, policy) = next(iter(pass_at_k.items())), list(pass_at_k.items())[-1]
    name = signals.names["pass_at_k"]
    if begin > next(iter(entropy)):
        return [
            f"{name} is first logged at step {begin}, so what the base could solve is not known; evaluate before the "
            "first step"
        ]
    if policy >= base:
        return [f"{name} has not fallen ({base:.3g} at step {begin}, {policy:.3g} at step {end}): nothing was lost"]
    return [
        f"{name} has fallen from {base:.3g} at step {begin} to {policy:.3g} at step {end}: this is what a remedy "
        "could bring back, on the same problems"
    ]


def _smooth(reward: Series) -> Series:
    """Means over `SMOOTH` logged steps, by the last of them."""
    steps, values = list(reward), list(reward.values())
    return {steps[end - 1]: statistics.fmean(values[end - SMOOTH : end]) for end in range(SMOOTH, len(values) + 1)}


def _spikes(norms: Series) -> list[str]:
    steps, values = list(norms), list(norms.values())
    spikes = [
        index
        for index in range(SPIKE_LEAST, len(values))
        if values[index] > SPIKE * statistics.median(values[max(0, index - SPIKE_MEMORY) : index])
    ]
    if not spikes:
        return []
    highest = max(spikes, key=lambda index: values[index])
    return [
        f"the gradient norm spikes at {len(spikes)} of {len(values)} logged steps, first at step {steps[spikes[0]]}, "
        f"highest at step {steps[highest]} ({values[highest]:.3g}; median {statistics.median(values):.3g})"
    ]
