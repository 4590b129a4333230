"""Why the verdict is what it is, and what the daemon will do next by itself: sentences for people."""

import time
from collections.abc import Collection, Sequence

from reheatd.api.context import ApiContext
from reheatd.api.schemas import Intention, LearningView, ThresholdsView
from reheatd.control.journal import Pause
from reheatd.control.states import idle_state
from reheatd.entropy.detector import Verdict
from reheatd.entropy.windows import Window
from reheatd.jobs.contracts import Job, JobStatus
from reheatd.names import version_name

ANSWERS: dict[Verdict, str] = {"collapsed": "a reheat", "stalled": "a reheat", "too_hot": "a cooling"}
"""The jobs that answer a verdict."""


def reason(
    verdict: Verdict | None, window: Window | None, limits: ThresholdsView | None, learning: LearningView | None
) -> str:
    """One sentence that says why the promoted version has its verdict.

    Args:
        verdict: The verdict; None until a window was measured.
        window: The version's newest window.
        limits: The thresholds of the next window.
        learning: What the rollouts of RL teach the version.
    """
    if verdict is None or window is None or limits is None:
        return "Entropy has not been measured yet."
    if verdict == "stalled" and learning is not None:
        return (
            f"{learning.varied:.1f} of {learning.groups:.1f} groups of rollouts vary per step of RL, and most others "
            "fail, so RL learns nothing."
        )
    estimate, state = window.estimate, window.detector
    if verdict == "collapsed" or state.low:
        return _low(verdict, estimate.high, state.low, limits)
    if limits.too_hot is not None and (verdict == "too_hot" or state.high):
        if not state.high:
            return f"Entropy ran away above {limits.too_hot:.3f}, and has not come far enough below that."
        return f"{_windows(state.high)} with the whole interval above {limits.too_hot:.3f}."
    if estimate.mean < limits.warning:
        return (
            f"{estimate.mean:.3f} is below {limits.warning:.3f}, which is near the collapse threshold "
            f"{limits.collapsed:.3f} ({limits.because})."
        )
    return f"{estimate.mean:.3f} is above the collapse threshold {limits.collapsed:.3f} ({limits.because})."


def _low(verdict: Verdict, upper: float, windows: int, limits: ThresholdsView) -> str:
    threshold = f"{limits.collapsed:.3f} ({limits.because})"
    if verdict != "collapsed":
        return f"{_windows(windows)} with the upper limit {upper:.3f} below {threshold}; a further one decides."
    if not windows:
        return f"Entropy fell below {threshold}, and is not above {limits.warning:.3f} again."
    return f"{_windows(windows)} with the upper limit, now {upper:.3f}, below {threshold}."


def _windows(count: int) -> str:
    return "A window" if count == 1 else f"{count} windows in a row"


def intentions(
    context: ApiContext, job: Job | None, waiting: Sequence[Job], pauses: Sequence[Pause]
) -> list[Intention]:
    """What the daemon will do next by itself, the nearest first; what waits for a person is named too.

    Args:
        job: The job that is being run.
        waiting: The jobs that wait, the next one first.
        pauses: What the daemon does not start by itself.
    """
    found = [] if job is None else [Intention(what=_end_of(job))]
    found += [Intention(what=_begin_of(each)) for each in waiting]
    found += [Intention(what=f"no {pause.what} until `reheatd control resume`") for pause in pauses]
    if job is None and not waiting:
        found += _answers(context, {pause.what for pause in pauses})
    if context.monitor.next_at is not None:
        name = version_name(context.versions.promoted())
        found.append(Intention(what=f"measure the entropy of {name}", at=context.monitor.next_at))
    return found


def _end_of(job: Job) -> str:
    if job.kind == "import":
        return f"publish what {job.job_id} measures as a candidate"
    if job.status is JobStatus.RUNNING:
        return f"gate the version of {job.job_id}, and swap it in if it passes"
    return f"end {job.job_id}, which is {job.status.value}"


def _begin_of(job: Job) -> str:
    if job.status is JobStatus.QUEUED:
        return f"start {job.job_id}"
    what = "start" if job.version is None else f"serve {version_name(job.version)}"
    return f"{what} once `reheatd jobs approve {job.job_id}` is called"


def _answers(context: ApiContext, paused: Collection[str]) -> list[Intention]:
    """What follows the verdict, or the next round of RL, while no job runs or waits."""
    controller, settings, verdict = context.controller, context.settings.control, context.monitor.verdict
    if verdict in ANSWERS:
        if verdict not in settings.trigger:
            return [Intention(what=f"nothing about {verdict}, which is not in control.trigger")]
        if settings.mode == "observe":
            return [Intention(what=f"nothing about {verdict}, because control.mode is observe")]
        if "reheats" in paused or idle_state(verdict) is not controller.state:
            return []
        how = "start" if settings.mode == "auto" else "propose"
        left = controller.cooldown_remaining_s
        return [Intention(what=f"{how} {ANSWERS[verdict]}", at=time.time() + left if left else None)]
    if settings.rl == "continuous" and "rounds" not in paused:
        return [Intention(what="start a round of RL")]
    return []
