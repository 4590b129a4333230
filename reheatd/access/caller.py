"""Who sent a request, as the guard at the door found out."""

from contextvars import ContextVar
from dataclasses import dataclass

from starlette.requests import Request

from reheatd.access.jobs import JobClaim
from reheatd.access.keys import LOCAL, ApiKey
from reheatd.access.quotas import Quota
from reheatd.names import rollout_job

ACTOR: ContextVar[str | None] = ContextVar("reheatd_actor", default=None)
"""Whom the journal names for what this task does; None for what the daemon does by itself."""


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request: the owner of a key, a job, or somebody who needs no key."""

    key: ApiKey | None = None
    quota: Quota | None = None
    """What is left to the key; None if there is no key."""
    job: JobClaim | None = None

    @property
    def name(self) -> str:
        """What the journal calls the caller."""
        if self.job is not None:
            return self.job.job_id
        return LOCAL if self.key is None else self.key.name

    def may_ask(self, model: str) -> bool:
        """Whether the caller may ask a model. The rollout adapters of a job are for that attempt of the job alone."""
        attempt = rollout_job(model)
        if attempt is not None:
            return self.job is not None and attempt == self.job.model_prefix
        return self.key is None or self.key.may_ask(model)


NOBODY = Caller()
"""The sender of a request that met no guard, or whose key is not asked for."""


def caller_of(request: Request) -> Caller:
    return getattr(request.state, "caller", NOBODY)
