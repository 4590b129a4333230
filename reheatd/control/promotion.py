"""Promotes the version of a job, and takes that back if the job was cancelled meanwhile."""

import asyncio
import logging
import time
from collections.abc import Callable

from reheatd.adapters.swap import SwapResult
from reheatd.control.dependencies import Dependencies
from reheatd.control.waiting import JobStopped, retry_while_unreachable, stop_if
from reheatd.errors import ReheatdError
from reheatd.jobs.contracts import JobStatus
from reheatd.jobs.store import JobRecord
from reheatd.names import version_name

logger = logging.getLogger(__name__)


class Promotion:
    """The promotion of the version that the job of `record` made.

    Args:
        cancelled: Set once the job is to end.
        stop_if_overtaken: Raises `JobStopped` if somebody promoted another version while the job ran.
    """

    def __init__(
        self,
        dependencies: Dependencies,
        record: JobRecord,
        cancelled: asyncio.Event,
        stop_if_overtaken: Callable[[], None],
    ) -> None:
        self._swaps = dependencies.swaps
        self._swap_lock = dependencies.swap_lock
        self._ledger = dependencies.ledger
        self._monitor = dependencies.monitor
        self._patience_s = dependencies.settings.engine.startup_timeout_s
        self._record = record
        self._cancelled = cancelled
        self._stop_if_overtaken = stop_if_overtaken

    async def promote(self, version: int) -> tuple[float, str]:
        """Promotes the version, and returns the time of the flip in seconds since the epoch and the proof's figures.

        Raises:
            JobStopped: The job was cancelled or overtaken before the flip.
            DeliveryError: The engine does not serve what the trainer made.
        """
        swaps = self._swaps
        async with self._swap_lock:
            stop_if(self._cancelled)
            self._stop_if_overtaken()
            began = time.time()
            if swaps.promoted == version:
                return began, "proved when it was promoted by request"
            try:
                swapped = await swaps.promote(version)
            except ReheatdError as error:
                if swaps.promoted != version:
                    raise
                # The alias was flipped, so clients have the new version. Only tidying up after the old one failed.
                logger.warning("%s is promoted, but: %s", version_name(version), error)
                return time.time(), f"proved; then {error.message}"
        return began + swapped.seconds, _describe(swapped)

    async def take_back(self, version: int, promoted_at: float) -> None:
        """Undoes a promotion that was finished before the job's cancellation could stop it.

        Raises:
            JobStopped: Always.
        """
        job_id = self._record.job.job_id
        self._ledger.promoted(version, f"by {job_id}", job_id=job_id, at=promoted_at)
        await retry_while_unreachable(lambda: self._promote_parent(version), self._patience_s)
        self._monitor.trigger()
        raise JobStopped(JobStatus.CANCELLED, "cancelled")

    async def _promote_parent(self, version: int) -> None:
        job = self._record.job
        async with self._swap_lock:
            if self._swaps.promoted == version:
                await self._swaps.promote(job.parent_version)
                self._ledger.promoted(job.parent_version, f"{job.job_id} was cancelled", job_id=job.job_id)


def _describe(swapped: SwapResult) -> str:
    proof = swapped.proof
    if proof is None:
        return "promoted without proof"
    return (
        f"engine and trainer differ by {proof.mean_difference:.4f} nats per token, slope {proof.slope:.3f} over "
        f"{proof.tokens} tokens; flipped after {swapped.seconds:.2f} s"
    )
