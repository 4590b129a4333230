"""The credential of a job: it opens what the job needs, in one attempt, and nothing else.

It is derived by HMAC-SHA-256 (RFC 2104) from the job's id and the number of the attempt, with a secret that only the
data folder holds. So nothing has to be stored for it, and it is still good after a restart of the daemon.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from reheatd.access.tokens import PREFIX
from reheatd.errors import BadInputError

SECRET_FILE = "job-credentials.key"
SECRET_BYTES = 32
JOB_PREFIX = f"{PREFIX}job-"


@dataclass(frozen=True)
class JobClaim:
    """A job in one of its attempts."""

    job_id: str
    attempt: int

    @property
    def model_prefix(self) -> str:
        """What the names of its rollout adapters have before the step, e.g. `job-ID.1`."""
        return f"job-{self.job_id}.{self.attempt}"


class JobCredentials:
    """Makes the credentials of jobs, and checks them."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(self, job_id: str, attempt: int) -> str:
        """The credential of a job in one attempt. It is a secret; log it nowhere."""
        claim = f"{job_id}.{attempt}"
        return f"{JOB_PREFIX}{claim}-{hmac.new(self._secret, claim.encode(), hashlib.sha256).hexdigest()}"

    def read(self, token: str) -> JobClaim | None:
        """The job and the attempt that a credential was made for; None if it was not made here."""
        job_id, _, attempt = token.removeprefix(JOB_PREFIX).rpartition("-")[0].rpartition(".")
        if not (job_id and attempt.isascii() and attempt.isdigit() and len(attempt) < 10):
            return None
        if not hmac.compare_digest(token.encode(), self.of(job_id, int(attempt)).encode()):
            return None
        return JobClaim(job_id, int(attempt))


def job_credentials(data_dir: Path) -> JobCredentials:
    """The credentials of the jobs of a data folder, whose secret is made when it is asked for first.

    Raises:
        BadInputError: The file of the secret is damaged.
    """
    file = data_dir / SECRET_FILE
    if not file.exists():
        write_secret(file, secrets.token_bytes(SECRET_BYTES))
    secret = file.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise BadInputError(f"{file} does not hold {SECRET_BYTES} bytes; delete it, and a new one is made")
    return JobCredentials(secret)


def write_secret(file: Path, content: bytes) -> None:
    """Writes a file that only its owner can read, at every moment, and that is whole or not there.

    Raises:
        FileExistsError: The file exists.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        os.link(scratch, file)  # unlike a rename, this never replaces what another process has just written
    finally:
        scratch.unlink()
