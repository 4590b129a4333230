"""When a job that somebody follows is worth no further look."""

from reheatd.errors import ReheatdError
from reheatd.jobs.contracts import Job, JobStatus

POLL_S = 0.5
"""Time between two looks at a job that is followed, in seconds."""


class WaitTimeoutError(ReheatdError, TimeoutError):
    """A job had not ended within the time that the caller would wait; it goes on.

    What to do: Wait again with `Client.wait`, give it more time, or cancel the job.
    """

    code = "wait_timeout"

    def __init__(self, job: Job, timeout_s: float) -> None:
        super().__init__(f"{job.job_id}, which is {job.status.value}, has not ended within {timeout_s:g} s; it goes on")


def asks(job: Job) -> bool:
    """Whether the job's version waits until somebody decides on it, because a gate had no evidence."""
    return job.status is JobStatus.AWAITING_APPROVAL and job.version is not None


def is_settled(job: Job) -> bool:
    """Whether nothing more happens to the job by itself: it has ended, or somebody has to decide on its version."""
    return job.status.is_final or asks(job)
