"""Names in Redis that the daemon and its workers share."""

EVENTS_FIELD = "event"
"""Field of a stream entry that holds the JSON of a `JobEvent`."""
KEEP_S = 7 * 24 * 3600
"""How long Redis keeps the keys of a job, in seconds."""


def events_key(job_id: str) -> str:
    """Key of the stream of the job's events."""
    return f"reheatd:job:{job_id}:events"


def cancel_key(job_id: str) -> str:
    """Key that exists once the job is cancelled."""
    return f"reheatd:job:{job_id}:cancel"


def attempt_key(job_id: str) -> str:
    """Key of the number of the attempt that is wanted; a worker that finds another number than its own stops."""
    return f"reheatd:job:{job_id}:attempt"


def alive_key(job_id: str, attempt: int) -> str:
    """Key that exists while a worker runs the job; it expires by itself when the worker dies."""
    return f"reheatd:job:{job_id}:{attempt}:alive"


def owner_key(job_id: str, attempt: int) -> str:
    """Key of the time at which the attempt began, in seconds on the broker's clock.

    Only one delivery of the attempt can set it; that one runs.
    """
    return f"reheatd:job:{job_id}:{attempt}:owner"


def celery_id(job_id: str, attempt: int) -> str:
    """Celery's id of the task. Every attempt has its own, because Celery never runs a revoked id again."""
    return f"{job_id}.{attempt}"
