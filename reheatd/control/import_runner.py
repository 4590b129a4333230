"""The job of an import: a worker measures the adapter and computes its proof items, and it becomes a candidate.

Nothing was trained, so no gate compares the adapter with anything, and it is not promoted. `reheatd adapters promote`
proves and promotes it like any other version.
"""

import asyncio
import logging
import shutil

from reheatd.config import Settings
from reheatd.control.ledger import Ledger
from reheatd.control.publication import publish
from reheatd.control.runner import JobRunner
from reheatd.control.specs import build_import_spec, import_lineage_fields
from reheatd.control.states import State
from reheatd.control.training import Training
from reheatd.control.waiting import stop_if
from reheatd.jobs.contracts import ImportRequest, ImportResult, ImportSpec, JobStatus
from reheatd.names import version_name

logger = logging.getLogger(__name__)


class ImportRunner(JobRunner):
    """Runs an import from the queue to its end."""

    async def _steps(self) -> None:
        job = self.record.job
        if job.status is JobStatus.QUEUED:
            await self._begin()
        training = Training(self._dependencies, self.record, self.rollouts, self._cancelled)
        result = await training.run(self._import_spec)
        spec = self._import_spec  # with the length of answers, if the worker has found one
        if not isinstance(result, ImportResult):
            raise RuntimeError(f"{job.job_id} is an import with a result of training")
        stop_if(self._cancelled)
        await self.rollouts.drop(self.record)
        await asyncio.to_thread(self._dependencies.validate, spec.adapter)
        fields = import_lineage_fields(spec, result, self._dependencies.policy)
        version = await publish(self._dependencies, self.record, spec.adapter, None, fields)
        stop_if(self._cancelled)
        self._ledger.finish(self.record, JobStatus.SUCCEEDED, None, self._idle_state())
        logger.info("%s is a candidate; `reheatd adapters promote %d` serves it", version_name(version), version)

    async def _begin(self) -> None:
        dependencies, job = self._dependencies, self.record.job
        if not isinstance(job.request, ImportRequest):
            raise RuntimeError(f"{job.job_id} is an import with a request for something else")
        probes = await self._probe_options()
        self.record.spec = build_import_spec(
            job.request,
            dependencies.settings,
            dependencies.policy,
            job_id=job.job_id,
            gateway_url=dependencies.gateway_url,
            probes=probes,
            length=dependencies.lengths.known(dependencies.settings.task, probes.digest),
        )
        self._ledger.advance(self.record, JobStatus.RUNNING, State.IMPORTING, f"{job.job_id} of {job.request.source}")

    @property
    def _import_spec(self) -> ImportSpec:
        if not isinstance(self.record.spec, ImportSpec):
            raise RuntimeError(f"{self.record.job.job_id} is an import with a specification for something else")
        return self.record.spec

    async def _clean_up(self) -> None:
        """Frees what the job holds, its files too: if it succeeded, they were copied into the version."""
        await super()._clean_up()
        # The files of an adapter that is still loaded stay until the next start.
        if not self.record.rollout_adapters:
            await asyncio.to_thread(remove_import, self._dependencies.settings, self.record.job.job_id)


def remove_import(settings: Settings, job_id: str) -> None:
    """Deletes the files of an import that is over, or that never was recorded."""
    shutil.rmtree(settings.jobs_dir / job_id, ignore_errors=True)


def remove_leftovers(settings: Settings, ledger: Ledger) -> None:
    """Deletes what imports left behind that a crash interrupted; called before the daemon takes requests."""
    shutil.rmtree(settings.uploads_dir, ignore_errors=True)
    alive = {job.job_id for job in ledger.jobs.all() if not job.status.is_final}
    for folder in settings.jobs_dir.glob("import-*"):
        if folder.name not in alive:
            shutil.rmtree(folder, ignore_errors=True)
