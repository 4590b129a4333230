"""Rollout adapters: snapshots of the policy that a running job trains, loaded so that the engine can sample from it."""

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from reheatd.control.dependencies import Slots
from reheatd.control.ledger import Ledger
from reheatd.errors import BadInputError, ConflictError, ReheatdError
from reheatd.jobs.store import JobRecord, RolloutAdapter
from reheatd.names import rollout_name

logger = logging.getLogger(__name__)


class RolloutAdapters:
    """Loads a job's newest snapshot and unloads the one before, one change at a time."""

    def __init__(self, slots: Slots, ledger: Ledger, validate: Callable[[Path], None]) -> None:
        self._slots = slots
        self._ledger = ledger
        self._validate = validate
        self._changing = asyncio.Lock()

    async def load(self, record: JobRecord, path: Path, step: int, *, attempt: int | None = None) -> str:
        """Loads the snapshot in `path`, unloads older ones, and returns the model name to sample from.

        Args:
            attempt: The attempt whose worker asks; None if nobody knows.

        Raises:
            BadInputError: `path` is not a folder inside the job's own folder.
            AdapterInvalidError, EngineError: The snapshot does not fit the policy, or the engine refuses it.
            ConflictError: No adapter slot is free, the step was loaded from another folder, or another attempt runs.
        """
        folder = self._inside(record, path)
        attempt = record.job.attempt if attempt is None else attempt
        name = rollout_name(record.job.job_id, attempt, step)
        async with self._changing:
            # Whoever gives up a worker drops its adapters under this lock, and counts up the attempt before anybody
            # else gets it. So nothing of a worker that was given up is loaded after that.
            if record.job.attempt != attempt:
                raise ConflictError(f"attempt {record.job.attempt} at job {record.job.job_id} runs, not {attempt}")
            await asyncio.to_thread(self._validate, folder)
            await self._slots.load(name, folder)
            if all(adapter.name != name for adapter in record.rollout_adapters):
                record.rollout_adapters.append(RolloutAdapter(name=name, path=folder))
                self._ledger.save(record)
            await self._unload(record, keep=name)
        return name

    async def restore(self, record: JobRecord) -> None:
        """Loads the snapshot that the job samples from again, after a restart of the daemon."""
        async with self._changing:
            for adapter in record.rollout_adapters[-1:]:
                await self._slots.load(adapter.name, adapter.path)

    async def drop(self, record: JobRecord) -> None:
        """Unloads all of the job's snapshots, then deletes their files."""
        async with self._changing:
            await self._unload(record, keep=None)
            if record.spec is not None and not record.rollout_adapters:
                await asyncio.to_thread(_delete_snapshots, record.spec.output_dir)

    async def _unload(self, record: JobRecord, *, keep: str | None) -> None:
        for adapter in list(record.rollout_adapters):
            if adapter.name == keep:
                continue
            try:
                await self._slots.unload(adapter.name)
            except ReheatdError as error:
                # It is still in use, or the engine is restarting. The next change, or the job's end, tries again.
                logger.warning("%s stays loaded for now: %s", adapter.name, error)
                continue
            record.rollout_adapters.remove(adapter)
            self._ledger.save(record)

    def _inside(self, record: JobRecord, path: Path) -> Path:
        if record.spec is None:
            raise ConflictError(f"job {record.job.job_id} has not been dispatched yet")
        own, folder = record.spec.output_dir.resolve(), path.resolve()
        if folder == own or not folder.is_relative_to(own):
            raise BadInputError(f"path {path} is not inside the job's folder {own}", param="path")
        if not folder.is_dir():
            raise BadInputError(
                f"path {folder} is not a folder here; workers and daemon must see the same data_dir", param="path"
            )
        return folder


def _delete_snapshots(folder: Path) -> None:
    for snapshot in folder.rglob("rollout-*"):
        shutil.rmtree(snapshot, ignore_errors=True)
