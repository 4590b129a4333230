"""Names in Redis that the daemon and its workers share."""

EVENTS_FIELD = "event"
"""Field of a stream entry that holds the JSON of a `JobEvent`."""
KEEP_S = 7 * 24 * 3600
"""How long Redis keeps what belongs to a job, in seconds."""


def events_key(job_id: str) -> str:
    """Stream of the job's events."""
    return f"reheatd:job:{job_id}:events"


def cancel_key(job_id: str) -> str:
    """Exists once nobody wants the job any more."""
    return f"reheatd:job:{job_id}:cancel"


def alive_key(job_id: str) -> str:
    """Exists while a worker holds the job; expires on its own when the worker dies."""
    return f"reheatd:job:{job_id}:alive"


def owner_key(job_id: str) -> str:
    """Set by the one delivery of the job that runs."""
    return f"reheatd:job:{job_id}:owner"
