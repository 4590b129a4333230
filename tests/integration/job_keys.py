"""What tests of jobs and their worker agree on."""


def may_finish_key(job_id: str) -> str:
    """A key of the broker: once it is there, a slow job ends."""
    return f"may-finish:{job_id}"
