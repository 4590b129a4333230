"""Names in Redis that the daemon and its workers share."""

EVENTS_FIELD = "event"
"""Field of a stream entry that holds the JSON of a `JobEvent`."""
ATTEMPT_FIELD = "attempt"
"""Field of a stream entry that holds the number of the attempt that sent it."""
DEAD_LETTERS_KEY = "reheatd:dead-letters"
"""List of the messages that no worker could handle, the newest first."""
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
    """Key of the claim on the attempt. Only one delivery of the attempt can set it; that one runs."""
    return f"reheatd:job:{job_id}:{attempt}:owner"


def claim(begun: float, token: str) -> str:
    """The value under `owner_key`: when the delivery with this token began, in seconds on the broker's clock."""
    return f"{begun:.6f} {token}"


def begun_at(claim: str) -> float:
    """When the delivery that made this claim began, in seconds on the broker's clock."""
    return float(claim.split()[0])


def deliveries_key(celery_id: str) -> str:
    """Key of the number of workers that took the message of an attempt before any began it."""
    return f"reheatd:deliveries:{celery_id}"


def celery_id(job_id: str, attempt: int) -> str:
    """Celery's id of the task. Every attempt has its own, because Celery never runs a revoked id again."""
    return f"{job_id}.{attempt}"
