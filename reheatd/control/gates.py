"""Gates between a trained version and clients. Pure: figures in, `GateResult` out.

Every gate allows for sampling noise: a figure that misses its range fails the gate only if noise does not explain the
miss. The gates guard against versions that are worse; they do not retry until a measurement looks good.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from reheatd.config import GateSection
from reheatd.jobs.contracts import ReheatSpec, RLSpec
from reheatd.measures import Accuracy, EntropyEstimate


@dataclass(frozen=True)
class GateResult:
    name: str
    passed: bool
    detail: str
    """One line with the figures."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def entropy_gate(
    spec: ReheatSpec | RLSpec,
    before: EntropyEstimate,
    measured: EntropyEstimate,
    floor: float,
    settings: GateSection,
) -> GateResult:
    """Applies the entropy gate that fits the job.

    That is RL's floor for a job of continued RL. For a reheat it is the target or, without one, the direction of tau.

    Args:
        before: Entropy of the version that the job started from, in nats per token.
        measured: Entropy of the version that the job made, measured by the daemon through the engine.
        floor: Entropy below which a policy has collapsed, in nats per token.
    """
    if isinstance(spec, RLSpec):
        return floor_gate(measured, floor)
    if spec.target_entropy is not None:
        return target_gate(measured, spec.target_entropy, settings.entropy_tolerance)
    if spec.tau is not None:
        return direction_gate(before, measured, spec.tau)
    return GateResult("entropy", False, "the job has neither target nor tau, so nothing can be checked")


def target_gate(measured: EntropyEstimate, target: float, tolerance: float) -> GateResult:
    """Passes if the estimate's confidence interval overlaps target * [1 - tolerance, 1 + tolerance].

    A point estimate inside the range always passes. One outside passes only if its own noise reaches into the range.
    """
    low, high = target * (1 - tolerance), target * (1 + tolerance)
    passed = measured.low <= high and measured.high >= low
    return GateResult(
        "entropy",
        passed,
        f"{_interval(measured)} nats per token, target {target:.3f} within {tolerance:.0%}: [{low:.3f}, {high:.3f}]",
    )


def direction_gate(before: EntropyEstimate, measured: EntropyEstimate, tau: float) -> GateResult:
    """Passes unless entropy moved against tau (up for tau > 1, down for tau < 1) by more than noise explains.

    Noise is the half width of the difference's interval, which is both half widths in quadrature. Both estimates use
    the same probes, so the true noise is smaller; that makes the gate more lenient, never stricter.
    """
    change = measured.mean - before.mean
    noise = math.hypot(_half_width(before), _half_width(measured))
    towards = change if tau > 1 else -change
    wanted = "higher" if tau > 1 else "lower"
    return GateResult(
        "entropy",
        towards > 0 or towards + noise > 0,
        f"{_interval(before)} -> {_interval(measured)} nats per token with tau {tau:g}: should be {wanted}, "
        f"changed by {change:+.3f}, noise {noise:.3f}",
    )


def floor_gate(measured: EntropyEstimate, floor: float) -> GateResult:
    """Passes unless the whole confidence interval lies below the collapse threshold."""
    return GateResult("entropy", measured.high >= floor, f"{_interval(measured)} nats per token, must keep {floor:.3f}")


def accuracy_gate(before: Accuracy, after: Accuracy, tolerance: float) -> GateResult:
    """Fails if the loss in accuracy is both larger than `tolerance` and real.

    The loss is real if its interval excludes 0, by Newcombe's method from the two Wilson intervals: the loss
    d = before - after is real if d > sqrt((before - before.low)^2 + (after.high - after)^2). On 48 problems around 50%
    that takes a drop of about 0.19, so pure noise fails a version as rarely as the intervals' level says. With more
    problems (`task.eval_count`), the gate approaches `after >= before - tolerance`.
    """
    loss = before.value - after.value
    noise = math.hypot(before.value - before.low, after.high - after.value)
    return GateResult(
        "accuracy",
        not (loss > tolerance and loss > noise),
        f"{before.value:.1%} -> {after.value:.1%} of {after.problems} problems: lost {loss:+.1%}, "
        f"tolerance {tolerance:.1%}, noise {noise:.1%}",
    )


def delivery_gate(passed: bool, detail: str) -> GateResult:
    """The gate that reports the proof of delivery, as the swap found it."""
    return GateResult("delivery", passed, detail)


def _half_width(estimate: EntropyEstimate) -> float:
    return (estimate.high - estimate.low) / 2


def _interval(estimate: EntropyEstimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
