"""Gates between a trained version and clients. Pure: figures in, `GateResult` out.

Every gate allows for sampling noise: a figure that misses its range fails the gate only if noise does not explain the
miss. Where the figures cannot tell whether a version is worse, the outcome is `no_evidence`, and a person decides. The
gates guard against versions that are worse; they do not retry until a measurement looks good.
"""

import math
from statistics import NormalDist

from reheatd.config_tables import GateSection
from reheatd.jobs.contracts import GateResult, JobResult, ReheatSpec, RLSpec
from reheatd.measures import Accuracy, EntropyEstimate
from reheatd.names import version_name
from reheatd.options import RL_REMEDIES
from reheatd.signal import ALPHA, chance_of_nothing, is_restored

LOSS_CONFIDENCE = 0.9
"""Level of the interval of a loss of accuracy, which the true loss exceeds at each end one time in twenty."""


def entropy_gate(
    spec: ReheatSpec | RLSpec,
    result: JobResult,
    measured: EntropyEstimate,
    floor: float | None,
    settings: GateSection,
) -> GateResult:
    """Applies the entropy gate that fits the job.

    That is RL's floor for continued RL, also where it is a reheat's remedy. For other reheats it is the target or,
    without one, the direction of tau.

    Args:
        result: The job's result, with the remedy that made the version.
        measured: Entropy of the version that the job made, measured by the daemon through the engine.
        floor: Entropy below which a policy has collapsed, in nats per token; None if a collapse is let through,
            because the daemon answers it with a reheat.
    """
    if isinstance(spec, RLSpec) or result.remedy in RL_REMEDIES:
        return floor_gate(measured, floor)
    if spec.target_entropy is not None:
        return target_gate(measured, spec.target_entropy, settings.entropy_tolerance)
    if spec.tau is not None:
        return direction_gate(result.entropy_before, measured, spec.tau)
    return GateResult(
        name="entropy", outcome="no_evidence", detail="the job has neither target nor tau, so nothing can be checked"
    )


def target_gate(measured: EntropyEstimate, target: float, tolerance: float) -> GateResult:
    """Passes if the estimate's confidence interval overlaps target * [1 - tolerance, 1 + tolerance].

    A point estimate inside the range always passes. One outside passes only if its own noise reaches into the range.
    """
    low, high = target * (1 - tolerance), target * (1 + tolerance)
    return _result(
        "entropy",
        measured.low <= high and measured.high >= low,
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
    return _result(
        "entropy",
        towards > 0 or towards + noise > 0,
        f"{_interval(before)} -> {_interval(measured)} nats per token with tau {tau:g}: should be {wanted}, "
        f"changed by {change:+.3f}, noise {noise:.3f}",
    )


def floor_gate(measured: EntropyEstimate, floor: float | None) -> GateResult:
    """Passes unless the whole confidence interval lies below the collapse threshold; without one it passes."""
    if floor is None:
        return _result("entropy", True, f"{_interval(measured)} nats per token; a collapse is answered by a reheat")
    return _result("entropy", measured.high >= floor, f"{_interval(measured)} nats per token, must keep {floor:.3f}")


def accuracy_gate(before: Accuracy, after: Accuracy, tolerance: float) -> GateResult:
    """Judges the loss of accuracy on the problems that parent and new version were both measured on.

    The loss is the mean over problems of the parent's share of solved answers less the new version's. With its
    interval (`paired_loss`), the gate

    - fails if the loss is larger than `tolerance`, and real: the interval is above 0;
    - passes if a loss larger than `tolerance` is implausible: the interval ends at `tolerance` or below;
    - has no evidence otherwise, which more problems or more answers per problem would settle.

    It also has no evidence where it could not have failed: the parent's accuracy is not above `tolerance`, so that
    there is nothing to lose, and the new version is not really better. The two cannot be compared if they were measured
    on other problems.
    """
    figures = f"{before.value:.1%} -> {after.value:.1%} of {after.problems} problems"
    if tolerance >= 1:
        return _result("accuracy", True, f"{figures}; tolerance {tolerance:.0%} allows any loss")
    if not after.solved or before.problem_set != after.problem_set:
        return _no_evidence(
            f"{figures}, but parent and new version were measured on other problems; the next job measures both anew"
        )
    loss, low, high = paired_loss(before, after)
    figures += (
        f", avg@{after.samples}: lost {loss:+.1%}, {LOSS_CONFIDENCE:.0%} interval [{low:+.1%}, {high:+.1%}], "
        f"tolerance {tolerance:.1%}"
    )
    if loss > tolerance and low > 0:
        return _result("accuracy", False, figures)
    if before.value <= tolerance and high >= 0:
        return _no_evidence(
            f"{figures}; the parent solves too little to lose more than that: take problems that it solves (task.path)"
        )
    if high <= tolerance:
        return _result("accuracy", True, figures)
    gap = tolerance - loss if loss < tolerance else loss
    needed = math.ceil(len(after.solved) * ((high - low) / 2 / gap) ** 2) if gap > 0 else 0
    enough = f" to about {needed}" if needed > len(after.solved) else ""
    return _no_evidence(f"{figures}; to tell, raise task.eval_count{enough}, or task.eval_samples")


def paired_loss(before: Accuracy, after: Accuracy) -> tuple[float, float, float]:
    """The mean loss of accuracy per problem, and its interval of level `LOSS_CONFIDENCE`.

    With d_i = before_i - after_i, the share of answers that solve problem i, the interval is the normal one for the
    mean of n differences, after two problems were added: half a problem each that was lost, was won, stayed solved and
    stayed unsolved. With one answer per problem this is exactly the interval for matched pairs of Agresti and Min
    (Statistics in Medicine 24, 2005). It has a width even if all differences are 0, as when every problem is solved
    before and after: then it is about 1.6 / n, since a few further problems might have been lost.

    Returns:
        The loss as measured, without the two problems, and the ends of the interval; as shares, negative for a gain.
    """
    shares = zip(before.solved, after.solved, strict=True)
    differences = [old / before.samples - new / after.samples for old, new in shares]
    total, squares, problems = sum(differences), sum(d * d for d in differences) + 1, len(differences) + 2
    centre = total / problems
    half = NormalDist().inv_cdf(0.5 + LOSS_CONFIDENCE / 2) * math.sqrt(squares - total * centre) / problems
    return total / len(differences), centre - half, centre + half


def signal_gate(result: JobResult) -> list[GateResult]:
    """Judges a candidate by the problems that the parent had lost: passes if some of them are found again.

    Returns:
        Nothing if the job did not measure signal.
    """
    before, after = result.signal_before, result.signal_after
    if before is None or after is None:
        return []
    if not before.lost:
        return [_result("signal", True, f"{before}; there is no signal to bring back")]
    chance = chance_of_nothing(before, after)
    return [
        _result(
            "signal",
            is_restored(before, after),
            f"{after}; the parent again: {before.found} found; by chance: p = {chance:.2g}, at most {ALPHA:g} passes",
        )
    ]


def change_gate(parent: int, result: JobResult) -> GateResult:
    """The gate that rejects an adapter which is equal to that of the parent version."""
    return _result(
        "change",
        False,
        f"the adapter is equal to that of {version_name(parent)} after {result.steps} steps, stopped by "
        f"{result.stopped}; training changed nothing",
    )


def delivery_gate(passed: bool, detail: str) -> GateResult:
    """The gate that reports the proof of delivery, as the swap found it."""
    return _result("delivery", passed, detail)


def _no_evidence(detail: str) -> GateResult:
    return GateResult(name="accuracy", outcome="no_evidence", detail=detail)


def _result(name: str, passed: bool, detail: str) -> GateResult:
    return GateResult(name=name, outcome="passed" if passed else "failed", detail=detail)


def _half_width(estimate: EntropyEstimate) -> float:
    return (estimate.high - estimate.low) / 2


def _interval(estimate: EntropyEstimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
