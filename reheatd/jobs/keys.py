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


def attempt_key(job_id: str) -> str:
    """Number of the attempt at the job that is wanted; a worker that finds another one than its own stops."""
    return f"reheatd:job:{job_id}:attempt"


def alive_key(job_id: str, attempt: int) -> str:
    """Exists while a worker holds the job; expires on its own when the worker dies."""
    return f"reheatd:job:{job_id}:{attempt}:alive"


def owner_key(job_id: str, attempt: int) -> str:
    """Set by the one delivery of the attempt that runs: when it began, in seconds on the broker's clock."""
    return f"reheatd:job:{job_id}:{attempt}:owner"


def celery_id(job_id: str, attempt: int) -> str:
    """Celery's id of the task; an id that was revoked is never run again, so every attempt has its own."""
    return f"{job_id}.{attempt}"
