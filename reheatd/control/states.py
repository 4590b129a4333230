"""States of the control loop and of its jobs, and the legal transitions between them. Pure."""

from enum import StrEnum

from reheatd.entropy.detector import Verdict
from reheatd.jobs.contracts import JobStatus


class State(StrEnum):
    """States of the control loop."""

    SERVING = "serving"
    """The promoted version is served, and nothing is known to be wrong with it."""
    COLLAPSED = "collapsed"
    """The promoted version's entropy has collapsed and no job is running."""
    STALLED = "stalled"
    """RL learns nothing from the promoted version's rollouts any more, and no job is running."""
    TOO_HOT = "too_hot"
    """The promoted version's entropy has run away and no job is running."""
    REHEATING = "reheating"
    """A reheat (or, with tau < 1, a cooling) is being trained."""
    CONTINUING_RL = "continuing_rl"
    """Continued RL is being trained."""
    IMPORTING = "importing"
    """An adapter of another trainer is being measured; it becomes a candidate."""
    GATING = "gating"
    """The version that a job made is being measured."""
    SWAPPING = "swapping"
    """A version that passed the gates is being proved and promoted."""


IDLE = (State.SERVING, State.COLLAPSED, State.STALLED, State.TOO_HOT)
"""The states without a running job: `serving`, and one for each verdict that says what is wrong."""
_FIRST = {State.REHEATING, State.CONTINUING_RL, State.IMPORTING, State.SWAPPING}

TRANSITIONS: dict[State, frozenset[State]] = {
    **{state: frozenset({*IDLE, *_FIRST} - {state}) for state in IDLE},
    State.REHEATING: frozenset({State.GATING, *IDLE}),
    State.CONTINUING_RL: frozenset({State.GATING, *IDLE}),
    State.IMPORTING: frozenset(IDLE),
    State.GATING: frozenset({State.SWAPPING, *IDLE}),
    State.SWAPPING: frozenset({State.CONTINUING_RL, *IDLE}),
}
"""States that may follow each state. Every busy state leads back to an idle one, because a job may fail, be rejected or
cancelled, or be done. An idle state leads to swapping when a version is approved that a gate had no evidence on."""

STATUS_TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.AWAITING_APPROVAL: frozenset(
        {JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.REJECTED, JobStatus.CANCELLED}
    ),
    JobStatus.QUEUED: frozenset(
        {JobStatus.RUNNING, JobStatus.SWAPPING, JobStatus.REJECTED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    # An import does not train, so no gate compares it with anything: it has succeeded once its version is published.
    JobStatus.RUNNING: frozenset({JobStatus.GATING, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}),
    # A version that somebody promotes by request while it is being measured is served, whatever the gates say then.
    JobStatus.GATING: frozenset(
        {
            JobStatus.SUCCEEDED,
            JobStatus.SWAPPING,
            JobStatus.AWAITING_APPROVAL,
            JobStatus.REJECTED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.SWAPPING: frozenset({JobStatus.SUCCEEDED, JobStatus.REJECTED, JobStatus.FAILED, JobStatus.CANCELLED}),
}


def idle_state(verdict: Verdict | None) -> State:
    """The state of the control loop while no job is running."""
    return State(verdict) if verdict in ("collapsed", "stalled", "too_hot") else State.SERVING


class IllegalTransitionError(RuntimeError):
    """A transition that does not exist was tried, which is a bug in the controller."""


def check_transition(old: State, new: State) -> None:
    """Checks that control state `new` may follow `old`.

    Raises:
        IllegalTransitionError: `new` does not follow `old`.
    """
    if new not in TRANSITIONS[old]:
        raise IllegalTransitionError(f"control state {old} cannot become {new}")


def check_status(old: JobStatus, new: JobStatus) -> None:
    """Checks that a job with status `old` may get status `new`.

    Raises:
        IllegalTransitionError: The job cannot get status `new`.
    """
    if new is not old and new not in STATUS_TRANSITIONS.get(old, frozenset()):
        raise IllegalTransitionError(f"job status {old} cannot become {new}")
