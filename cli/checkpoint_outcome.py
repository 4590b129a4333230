"""How `reheatd reheat-checkpoint` can end: the outcomes, their figures and their exit codes. Pure."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cli import render
from reheatd.adapters.lineage import Lineage
from reheatd.entropy.windows import Window
from reheatd.errors import ReheatdError
from reheatd.jobs.contracts import GateResult, Job, JobStatus
from reheatd.measures import Accuracy, Contract, EntropyEstimate

NOT_COLLAPSED = 3
"""Exit code if the policy has not collapsed, so that nothing was done."""
NOT_ACCEPTED = 4
"""Exit code if a gate rejected the reheated policy, or had no evidence on it, so that nothing was written."""


class ReheatFailed(ReheatdError, RuntimeError):
    """The reheat ended without a version that the gates could judge.

    What to do: The command says where it kept the daemon's data and logs; the worker's log there says what went
    wrong.
    """

    code = "job_failed"


class Outcome(Contract):
    """What `--json` prints, and `report/outcome.json` keeps. Entropies are in nats per token."""

    outcome: Literal["reheated", "not_collapsed", "rejected", "no_evidence"]
    reason: str
    verdict: str
    """Verdict on the policy as it was brought."""
    entropy: EntropyEstimate
    baseline: float
    collapsed_below: float
    target_entropy: float | None = None
    entropy_after: EntropyEstimate | None = None
    accuracy: Accuracy | None = None
    accuracy_after: Accuracy | None = None
    gates: list[GateResult] = Field(default_factory=list)
    folder: Path | None = None
    """Folder of what was written; None if nothing was."""
    merged: bool = False

    @property
    def exit_code(self) -> int:
        return {"reheated": 0, "not_collapsed": NOT_COLLAPSED}.get(self.outcome, NOT_ACCEPTED)


def is_decided(window: Window) -> bool:
    """Whether a window is the last that its verdict needs: no further one could make it `collapsed` right away."""
    return window.verdict == "collapsed" or window.detector.low == 0


def not_collapsed(window: Window) -> Outcome:
    """The outcome for a policy that has not collapsed."""
    estimate = window.estimate
    reason = (
        f"the verdict is {window.verdict}: the entropy is {estimate.mean:.3f} [{estimate.low:.3f}, "
        f"{estimate.high:.3f}] nats per token, {window.ratio:.0%} of the baseline {window.baseline:.3f}, and collapsed "
        f"is below {window.threshold:.3f}; nothing was done (--force insists)"
    )
    return Outcome(outcome="not_collapsed", reason=reason, **_diagnosis(window))


def outcome_of(window: Window, job: Job, lineage: Lineage | None) -> Outcome:
    """The outcome of a reheat.

    Args:
        window: The window that gave the verdict before.
        job: The reheat, which has ended or waits for approval.
        lineage: Lineage of the version that it made.

    Raises:
        ReheatFailed: The job failed or was cancelled.
    """
    details = "; ".join(f"gate {gate.name}: {gate.detail}" for gate in job.gates if gate.outcome != "passed")
    if job.status is JobStatus.SUCCEEDED:
        kind, reason = "reheated", f"{job.job_id} passed the gates" + (f", but: {details}" if details else "")
    elif render.asks(job):
        kind, reason = "no_evidence", f"{details}; --accept-no-evidence writes it all the same"
    elif job.status is JobStatus.REJECTED:
        kind, reason = "rejected", job.error or details
    else:
        raise ReheatFailed(f"{job.job_id} {job.status.value}: {job.error}")
    figures = {} if lineage is None else _figures(lineage)
    return Outcome.model_validate(
        {"outcome": kind, "reason": reason, "gates": job.gates, **_diagnosis(window), **figures}
    )


def _diagnosis(window: Window) -> dict[str, Any]:
    return {
        "verdict": window.verdict,
        "entropy": window.estimate,
        "baseline": window.baseline,
        "collapsed_below": window.threshold,
    }


def _figures(lineage: Lineage) -> dict[str, Any]:
    return {
        "target_entropy": lineage.target_entropy,
        "entropy_after": lineage.entropy_after,
        "accuracy": lineage.accuracy_before,
        "accuracy_after": lineage.accuracy_after,
    }
