"""What somebody may ask the daemon to do, by the admin API or on the dashboard; the journal says who did."""

from reheatd.adapters.swap import SwapResult
from reheatd.control.controller import Controller
from reheatd.control.ledger import Ledger
from reheatd.control.pauses import Pause
from reheatd.jobs.contracts import Job, JobRequest
from reheatd.names import version_name


class Operator:
    """Does what is asked, and records it where the control loop's own entries do not say it.

    The methods raise what the controller's methods of the same names raise.
    """

    def __init__(self, controller: Controller, ledger: Ledger) -> None:
        self._controller = controller
        self._ledger = ledger

    async def promote(self, version: int) -> SwapResult:
        return await self._controller.promote(version)

    async def rollback(self) -> SwapResult:
        return await self._controller.rollback()

    async def delete(self, version: int) -> None:
        await self._controller.retention.delete(version)
        self._ledger.requested(f"{version_name(version)} deleted", version=version)

    async def prune(self, keep: int) -> list[int]:
        """Deletes old versions, and returns which."""
        deleted = await self._controller.retention.prune(keep)
        names = ", ".join(map(version_name, deleted)) or "nothing"
        self._ledger.requested(f"{names} deleted, to keep the newest {keep}")
        return deleted

    def submit(self, request: JobRequest) -> Job:
        job = self._controller.submit(request)
        self._ledger.requested(f"{job.job_id} submitted", job_id=job.job_id)
        return job

    def cancel(self, job_id: str) -> Job:
        job = self._controller.cancel(job_id)
        self._ledger.requested(f"{job.job_id} cancelled", job_id=job.job_id)
        return job

    def approve(self, job_id: str) -> Job:
        job = self._controller.approve(job_id)
        self._ledger.requested(f"{job.job_id} approved", job_id=job.job_id)
        return job

    @property
    def pauses(self) -> list[Pause]:
        return self._controller.pauses

    def resume(self) -> list[Pause]:
        return self._controller.resume()
